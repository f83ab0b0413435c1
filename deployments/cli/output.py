"""Where the command writes: JSON for programs, lines for logs, and a display that lives on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol, TextIO

from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from backups.cli.output import Output, ago
from deployments.models import Deployment

from . import facts

__all__ = ["DeployOutput", "Screen", "ago", "share", "state_words"]

_STEPS = ("queued", "fetching", "checking", "building", "backing_up")
_MARKS = {"done": "✓", "now": "▶", "ahead": "·"}


def state_words(state: str) -> str:
    """``rolled_back`` → “rolled back”."""
    return state.replace("_", " ")


def share(percent: float | None) -> str:
    """12.5 → “12.5 %”; “–” for what is not known."""
    return "–" if percent is None else f"{percent:g} %"


class Screen(Protocol):
    """Shows one deployment while it is watched."""

    def show(self, deployment: Deployment) -> None: ...

    def say(self, text: str) -> None: ...


class DeployOutput(Output):
    """``as_lines``: many JSON objects, one a line (``--json --wait``), instead of one document."""

    def __init__(self, stream: TextIO, *, as_json: bool, as_lines: bool = False) -> None:
        super().__init__(stream, as_json=as_json)
        self.as_lines = as_json and as_lines
        self._lines_to = stream

    def document(self, data: Any) -> None:
        if not self.as_lines:
            super().document(data)
            return
        self._lines_to.write(json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=False) + "\n")
        self._lines_to.flush()

    def entry(self, kind: str, data: dict[str, Any]) -> None:
        """One of many lines; nothing where one document is wanted or a person reads."""
        if self.as_lines:
            self.document({"kind": kind, **data})

    @contextmanager
    def screen(self) -> Iterator[Screen]:
        """A display that is drawn anew on a terminal, else a line for whatever changes."""
        if self.as_json or not self.console.is_terminal:
            yield _Lines(self)
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            yield _Terminal(self, live)


class _Lines:
    """For logs: the state and the shares, whenever they change."""

    def __init__(self, output: DeployOutput) -> None:
        self._output, self._last = output, ""

    def show(self, deployment: Deployment) -> None:
        text = headline(deployment)
        if text != self._last:
            self._last = text
            self._output.line(text)

    def say(self, text: str) -> None:
        self._output.line(f"  {text}")


class _Terminal:
    def __init__(self, output: DeployOutput, live: Live) -> None:
        self._output, self._live = output, live

    def show(self, deployment: Deployment) -> None:
        self._live.update(drawing(deployment), refresh=True)

    def say(self, text: str) -> None:
        self._output.line(text)


def headline(deployment: Deployment) -> str:
    """“deploy-1 shop 1.0 → 2.0: baking, 10 % (10 % seen)”."""
    old = f"{deployment.from_release.version} → " if deployment.from_release else ""
    text = (
        f"{deployment.name} {deployment.service.name} {old}{deployment.release.version}: "
        f"{state_words(deployment.state)}"
    )
    if deployment.state in ("waiting", *_STEPS):
        return text
    requested = facts.percent(deployment.requested_permille)
    return f"{text}, {share(requested)} ({share(facts.percent(deployment.effective_permille))} seen)"


def drawing(deployment: Deployment, now: datetime | None = None) -> Group:
    """The stages as a table, the steps of the pipeline, and the last verdict below."""
    shown = facts.deployment_in_full(deployment)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "stage", "requested", "seen", "watched"):
        table.add_column(head)
    for number, stage in enumerate(shown["stages"], start=1):
        is_now = stage["standing"] == "now"
        seen = share(shown["effective_percent"]) if is_now else ""
        watched = f"{deployment.observed_seconds if is_now else 0:.0f} of {stage['bake_seconds']} s"
        table.add_row(_MARKS[stage["standing"]], str(number), share(stage["percent"]), seen, watched)
    parts: list[Any] = [Text(headline(deployment), style="bold"), table]
    parts += [Text(f"{_mark(step)} {step['phase']}: {step['name']} {step['summary']}") for step in shown["steps"]]
    parts += [Text(text) for text in sentences(shown)]
    return Group(*parts)


def sentences(shown: dict[str, Any]) -> list[str]:
    """What is to be said of a deployment beside its stages: why it holds, why it failed, the verdict, the health."""
    found = [shown["pause_reason"] if shown["state"] == "paused" else "", shown["error"]]
    found.append((shown["verdict"] or {}).get("sentence", ""))
    if (score := (shown["health"] or {}).get("score")) is not None:
        found.append(f"Health score {score}.")
    return list(dict.fromkeys(text for text in found if text))


def _mark(step: dict[str, Any]) -> str:
    return {"passed": "✓", "warned": "!", "running": "▶", "waiting": "·"}.get(step["outcome"], "✗")
