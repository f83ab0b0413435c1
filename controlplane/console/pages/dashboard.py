"""The start page's dashboard: one service at a time, its figures of the last 15 s and its charts, polled every 2 s."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.forms.models import model_to_dict
from django.http import HttpRequest, JsonResponse
from django.template.loader import render_to_string
from django.urls import reverse

from controlplane.console.base import badge, since
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError
from controlplane.samples.series import latest, many_series
from controlplane.samples.shown import latest_metrics
from controlplane.samples.sources import sources

from . import figures
from .docs import docs_url
from .figures import SPANS, Span

#: The name under which the control plane samples itself: shown first only where there is nothing else.
OWN_NAME = "control-plane"
#: A sample is taken every 15 s; after two that did not come the page says so.
LATE_SECONDS = 45


def services() -> list[str]:
    """The sampled services; none where they cannot be read, which a system check tells."""
    try:
        return [source.name for source in sources()]
    except ConfigurationError:
        return []


def chosen_service(asked: str, names: list[str]) -> str:
    """What was asked for, else the first that is not the control plane itself."""
    if asked in names:
        return asked
    return next((name for name in names if name != OWN_NAME), names[0] if names else "")


def chosen_span(asked: str) -> Span:
    return next((span for span in SPANS if span.key == asked), SPANS[0])


def context(request: HttpRequest) -> dict[str, Any]:
    """What the page needs of the dashboard before its first poll."""
    names, span = services(), chosen_span(request.GET.get("range", ""))
    service = chosen_service(request.GET.get("service", ""), names)
    shown = now_context(service)
    return {
        "service": service,
        "span": span,
        "service_tabs": [_tab(name, name, name == service, service=name, range=span.key) for name in names],
        "span_tabs": [_tab(one.key, one.label, one is span, service=service, range=one.key) for one in SPANS],
        "charts": [
            {
                "name": chart.name, "title": chart.title, "docs": docs_url(f"docs/dashboard.md#{chart.docs}"),
                "config": {
                    "unit": chart.unit, "whole": chart.whole,
                    "lines": [{"label": label, "field": field, "times": times} for label, field, times in chart.lines],
                },
            }
            for chart in figures.CHARTS
        ],
        "chart_settings": {
            "url": f"{reverse('admin:start_figures')}?{urlencode({'service': service, 'range': span.key})}",
            "points": span.points, "width": span.width_seconds, "grows": span.grows,
        },
        "charts_docs": docs_url("docs/dashboard.md#charts"),
        **shown,
    }  # fmt: skip


def _tab(key: str, label: str, current: bool, **query: str) -> dict[str, Any]:
    return {"key": key, "label": label, "current": current, "url": f"?{urlencode(query)}"}


def now_context(service: str) -> dict[str, Any]:
    """The newest figures of a service: one query, one round trip to Redis."""
    row = latest([service]).get(service) if service else None
    if row is None:
        return {"service": service, "row": None}
    shown = latest_metrics([service]).get(service)
    late = (clock.now() - row.at).total_seconds() > LATE_SECONDS
    state = badge("No answer", "bad") if not row.up else badge("No new figures", "warn") if late else None
    return {
        "service": service,
        "row": row,
        "state": state,
        "taken": since(row.at),
        "tiles": figures.tiles(model_to_dict(row)),
        "tables": figures.tables(shown.metrics) if shown else [],
    }


def start_figures(request: HttpRequest) -> JsonResponse:
    """The poll: the figures of now as a part of the page, and the points that the caller does not have yet.

    ``after`` is the time (ms since 1970) of the caller's last full point; without it all points are given.
    ``points=none`` gives none: the caller draws a long span, which changes slowly.
    """
    service = chosen_service(request.GET.get("service", ""), services())
    span = chosen_span(request.GET.get("range", ""))
    html = render_to_string("console/dashboard_now.html", now_context(service))
    answer: dict[str, Any] = {"service": service, "html": html, "points": {}}
    if service and request.GET.get("points") != "none":
        begin, end, points = figures.window(span, clock.now(), _moment(request.GET.get("after", "")))
        answer["points"] = figures.columns(many_series([service], figures.FIELDS, begin, end, points)[service])
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def _moment(text: str) -> datetime | None:
    if not text.isdecimal() or len(text) > 14:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(text))
