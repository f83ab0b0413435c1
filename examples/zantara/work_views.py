"""``/_work``: a request of a known cost, for benchmarks and fault tests; for callers on this machine only.

Unlike ``/_chaos`` it is limited, shed and measured like any other request: that is what it is for.
"""

from __future__ import annotations

import time

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import is_loopback
from controlplane.kernel.errors import Refused

from .http import RequestRefused, answers, json_response

MOST_MS = 10_000.0


@answers("GET")
def work(request: HttpRequest) -> HttpResponseBase:
    """GET ``?cpu_ms=10`` computes for so long, ``?io_ms=50`` waits for so long, both do both."""
    if not is_loopback(request):
        raise RequestRefused(
            403, "Forbidden", "Work is ordered from this machine only.", remedy="Call from 127.0.0.1 or ::1."
        )
    cpu, waiting = _milliseconds(request, "cpu_ms"), _milliseconds(request, "io_ms")
    compute(cpu / 1000)
    if waiting:
        time.sleep(waiting / 1000)
    return json_response({"cpu_ms": cpu, "io_ms": waiting})


def compute(seconds: float) -> None:
    """Use this much of the thread's own CPU time, however many others want the interpreter meanwhile."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(200))


def _milliseconds(request: HttpRequest, name: str) -> float:
    text = request.GET.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_MS:
        raise Refused(f"{name} must be a number of milliseconds.", remedy=f"From 0 to {MOST_MS:.0f}.")
    return value
