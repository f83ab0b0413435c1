"""``/livez``, ``/readyz`` and ``/health``: for supervisors, load balancers and people; never limited or logged in."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from controlplane.identity.caller import is_loopback

from .document import current_state, health_document
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


@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """The health document: 200 when healthy, 503 when not. Remedies only for this machine and allowed networks."""
    document = health_document(current_state(), details=_is_insider(request))
    return JsonResponse(
        document,
        status=200 if document["healthy"] else 503,
        content_type="application/health+json",
        headers={"Cache-Control": "no-store"},
    )


def _is_insider(request: HttpRequest) -> bool:
    from controlplane.monitoring.exposition import may_read

    return is_loopback(request) or may_read(request)
