"""The system check of the sampled services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps.config import AppConfig
from django.core.checks import CheckMessage, register

from controlplane.kernel.checks import check_error
from controlplane.kernel.errors import ConfigurationError

from .sources import sources


@register()
def check_services(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """ZANTARA_SERVICES names services and their addresses."""
    try:
        sources()
    except ConfigurationError as problem:
        yield check_error("zantara.E401", problem.message, problem.remedy)
