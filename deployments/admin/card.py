"""The start page: what is being deployed, which services are short of instances, how the last one ended; and a step."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Q
from django.urls import reverse

from controlplane.console.base import badge, since
from controlplane.kernel import clock
from controlplane.kernel.registry import Card, SetupStep
from deployments.machines import ACTIVE, DEPLOYMENT
from deployments.models import Deployment, LineStop, Service

from .service_page import HEALTHY
from .words import share, short, state_badge

MOST_ACTIVE = 4
#: The card is made anew every two seconds; a deployment's judge and policy are large and not on it.
_SHOWN = ("state", "effective_permille", "created_at", "finished_at", "error", "service__name", "release__version")


def deployments_now() -> dict[str, Any]:
    """Four queries, however many services there are."""
    now = clock.now()
    counted = Service.objects.filter(enabled=True).annotate(healthy=Count("all_instances", filter=HEALTHY))
    services = counted.values_list("pk", "name", "instances", "healthy")
    rows = Deployment.objects.select_related("service", "release").only(*_SHOWN)
    active = list(rows.filter(state__in=(*ACTIVE, "waiting"))[:MOST_ACTIVE])
    last = rows.filter(state__in=DEPLOYMENT.terminal_states).order_by("-finished_at", "-pk").first()
    line = LineStop.now()
    wrong = [
        {
            "badge": badge(f"{name}: {healthy} of {wanted} healthy", "bad" if not healthy else "warn"),
            "url": reverse("admin:deployments_service_change", args=(pk,)),
        }
        for pk, name, wanted, healthy in services
        if healthy < wanted
    ]
    services_url = reverse("admin:deployments_service_changelist")
    if line.stopped:
        wrong.insert(
            0, {"badge": badge(f"The line is stopped: {short(line.reason)}", "bad", "front_hand"), "url": services_url}
        )
    return {
        "wrong": wrong,
        "active": [{**_line(one), "since": since(one.created_at, now=now)} for one in active],
        "last": {**_line(last), "since": since(last.finished_at, now=now), "error": short(last.error, 160)}
        if last
        else None,
        "services_url": services_url,
        "history_url": reverse("admin:deployments_deployment_changelist"),
    }


def _line(deployment: Deployment) -> dict[str, Any]:
    return {
        "words": f"{deployment.service.name} {deployment.release.version}",
        "url": reverse("admin:deployments_deployment_change", args=(deployment.pk,)),
        "state": state_badge(deployment.state),
        "share": share(deployment.effective_permille) if deployment.effective_permille is not None else "",
    }


CARD = Card(name="deployments", title="Deployments", template="deployments/card.html", context=deployments_now)


def _deployed() -> bool:
    """The release that an installation begins with was asked for by nobody."""
    done = Deployment.objects.filter(state="succeeded")
    return bool(done.filter(~Q(trigger=Deployment.Trigger.FIRST)).exists())


STEP = SetupStep(
    name="deployments.first",
    label="Deploy a release",
    is_done=_deployed,
    url=lambda: reverse("admin:deployments_service_changelist"),
    help="Choose “Deploy” on a service: watch a release get its traffic stage by stage, and know how to take it back.",
)
