"""The start page: open problems, a service's figures, what runs, what to do next, and a card of each room.

What changes by itself is asked for every 2 s: the problems and the rest here, the figures by :mod:`.dashboard`.
"""

from __future__ import annotations

from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.text import capfirst

from controlplane.console.base import Tone, badge, since, with_code
from controlplane.console.navigation import visible_items
from controlplane.kernel import clock
from controlplane.kernel.registry import Card, SetupStep, cards, setup_steps

from . import dashboard as dashboard_page
from .board import Line, board
from .docs import docs_url

log = structlog.get_logger(__name__)

STATES: dict[str, tuple[str, Tone]] = {
    "pass": ("OK", "ok"),
    "warn": ("Look at this", "warn"),
    "fail": ("Not working", "bad"),
    "unknown": ("Not known", "muted"),
}


#: The live part looks at the checklist at most this often; whoever has done a step loads the page, which looks at once.
#: Its questions are a fifth of what the live part costs, and their answers change a few times in a year.
STEPS_SECONDS = 60.0
_steps_seen: tuple[float, list[dict[str, Any]]] = (float("-inf"), [])


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The theme asks this for the index page's context."""
    links = [
        {"title": item.title, "icon": item.icon, "url": link}
        for item, link in visible_items(request)
        if item.url_name != "admin:index"
    ]
    live_part, figures = live_context(request, checklist(at_most_seconds_old=0)), dashboard_page.context(request)
    return {**context, **live_part, **figures, "title": "Start", "quick_links": links}


def live(request: HttpRequest) -> HttpResponse:
    """The part of the start page that changes by itself."""
    context = live_context(request, checklist(at_most_seconds_old=STEPS_SECONDS))
    response = render(request, "console/start_live.html", context)
    response["Cache-Control"] = "no-store"
    return response


def checklist(*, at_most_seconds_old: float) -> list[dict[str, Any]]:
    """The steps of the setup as the page shows them, from memory where they were looked at so recently."""
    global _steps_seen  # noqa: PLW0603  (one tuple per process, replaced whole)
    at, steps = _steps_seen
    if clock.monotonic() - at >= at_most_seconds_old:
        steps = [_step(step) for step in setup_steps]
        _steps_seen = (clock.monotonic(), steps)
    return steps


def live_context(request: HttpRequest, steps: list[dict[str, Any]]) -> dict[str, Any]:
    lines = board.lines()
    return {
        "problems": [_row(line) for line in lines if line.result.status != "pass"],
        "rows": [_row(line) for line in lines if line.result.status == "pass"],
        "no_problem": badge("All well", "ok"),
        "about": {
            "runs": docs_url("docs/dashboard.md#what-runs"),
            "next": docs_url("docs/dashboard.md#what-to-do-next"),
        },
        "steps": steps,
        "open_steps": sum(not step["done"] for step in steps),
        "all_done": badge("Done", "ok"),
        "cards": [_card(card, request) for card in cards],
    }


def _row(line: Line) -> dict[str, Any]:
    text, tone = STATES[line.result.status]
    return {
        "label": capfirst(line.probe.label),
        "badge": badge(text, tone, "help" if line.result.status == "unknown" else None),
        "summary": line.result.summary,
        "remedy": with_code(line.result.remedy) if line.result.status != "pass" else "",
        "docs_url": docs_url(line.probe.docs),
        "asked": since(line.asked_at) if line.asked_at else "",
        "trouble": line.result.status != "pass",
        "last_well": since(line.last_passed_at, empty="never since this process started"),
    }


def _step(step: SetupStep) -> dict[str, Any]:
    try:
        done, url = step.is_done(), step.url()
    except Exception as problem:  # noqa: BLE001  (an app's step must not take the start page down)
        log.warning("setup_step_failed", step=step.name, error=type(problem).__name__)
        return {
            "label": step.label,
            "help": step.help,
            "done": False,
            "url": "",
            "badge": badge("Not known", "muted", "help"),
        }
    shown = badge("Done", "ok") if done else badge("To do", "info", "radio_button_unchecked")
    return {"label": step.label, "help": step.help, "done": done, "url": url, "badge": shown}


def _card(card: Card, request: HttpRequest) -> dict[str, Any]:
    try:
        html = render_to_string(card.template, card.context(), request)
    except Exception as problem:  # noqa: BLE001  (an app's card must not take the start page down)
        log.warning("card_failed", card=card.name, error=type(problem).__name__)
        html = badge("Not available just now", "muted", "help")
    return {"name": card.name, "title": card.title, "html": html}
