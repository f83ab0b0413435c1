"""``echo``: what came in goes out. Needs nothing, and so works while everything else is away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from examples.zantara.params import Params

from .registry import add


@add("echo", "answers with its parameters")
def echo(params: Params) -> Mapping[str, Any]:
    return params.everything()
