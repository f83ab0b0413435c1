"""``/livez`` and ``/readyz``: for supervisors and load balancers, never limited, never logged in."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from .probes import readiness


@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """This process answers. It asks nobody, so a dead database never makes a supervisor restart a healthy process."""
    return HttpResponse("ok", content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 if every critical component answers, 503 otherwise; at most a second old."""
    answer = readiness()
    return JsonResponse(answer.as_json(), status=200 if answer.ready else 503, headers={"Cache-Control": "no-store"})
