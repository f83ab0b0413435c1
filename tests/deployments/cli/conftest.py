"""The command as a person or a script calls it, on real rows; what a worker would do is done by the tests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.management import call_command

from deployments.cli import following


@dataclass
class Called:
    """What one call left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that standard output is."""
        return json.loads(self.out)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Call = Callable[..., Called]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], redis_url: str) -> Call:
    """``manage.py deploy`` with these words, in this process."""

    def run(*words: str) -> Called:
        capsys.readouterr()
        out = io.StringIO()
        try:
            call_command("deploy", *words, stdout=out)
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        return Called(code, out.getvalue(), capsys.readouterr().err)

    return run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
