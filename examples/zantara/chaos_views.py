"""``/_chaos``: order breakage, see it, end it; for callers on this machine only."""

from __future__ import annotations

import time
from dataclasses import asdict

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import is_loopback

from . import chaos as orders_of
from .chaos import CALM, SPREAD_SECONDS, Chaos
from .config import release
from .http import RequestRefused, answers, json_body, json_response


@answers("GET", "POST", "DELETE")
def chaos(request: HttpRequest) -> HttpResponseBase:
    """POST ``{"error_rate": 0..1, "latency_ms": …, "leak_mb": …}``, GET, DELETE.

    A change is answered once every process of the release has had the time to obey.
    """
    if not is_loopback(request):
        raise RequestRefused(
            403, "Forbidden", "Chaos is ordered from this machine only.", remedy="Call from 127.0.0.1 or ::1."
        )
    if request.method == "POST":
        orders_of.orders().give(Chaos.parse(json_body(request)))
        time.sleep(SPREAD_SECONDS)
    elif request.method == "DELETE":
        orders_of.orders().clear()
        time.sleep(SPREAD_SECONDS)
    in_force, left = orders_of.orders().show()
    return json_response(
        {
            "release": release(),
            "in_force": in_force != CALM,
            **asdict(in_force),
            "expires_in_seconds": left,
        }
    )
