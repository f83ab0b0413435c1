"""What stands above a service's form: what serves, its instances, and its last deployments."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Q
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import badge, since
from deployments.models import Service

from .instance_rows import instance_rows
from .words import link, share, small, state_badge, took

MOST_INSTANCES = 60
MOST_DEPLOYMENTS = 6
#: An instance that may be given requests, as seen from its service.
HEALTHY = Q(
    all_instances__stopped_at__isnull=True,
    all_instances__stopping_since__isnull=True,
    all_instances__draining_since__isnull=True,
    all_instances__ready_since__isnull=False,
)


def serving(service: Service) -> SafeString:
    """Which releases answer, with their shares where there are two; its state and current release are loaded."""
    state = getattr(service, "state", None)
    split = {version: permille for version, permille in (state.split or {}).items() if permille} if state else {}
    if len(split) > 1:
        ranked = sorted(split.items(), key=lambda pair: -pair[1])
        (first, most), *rest = ranked
        return format_html(
            "{} {}{}", first, share(most), small(", ".join(f"{version} {share(part)}" for version, part in rest))
        )
    if split:
        return format_html("{}", next(iter(split)))
    if state is not None and state.current is not None:
        return format_html("{}", state.current.version)
    return format_html('<span class="zt-muted-text">{}</span>', "nothing yet")


def service_top(service: Any, now: datetime) -> dict[str, Any]:
    """The context; three queries."""
    instances = service.all_instances.filter(stopped_at__isnull=True).select_related("release")[:MOST_INSTANCES]
    deployments = service.deployments.select_related("release")[:MOST_DEPLOYMENTS]
    healthy = sum(one.condition == "ready" for one in instances)
    enough = healthy >= service.instances
    state = getattr(service, "state", None)
    return {
        "serving": serving(service),
        "healthy": badge(f"{healthy} of {service.instances}", "ok" if enough else "bad" if not healthy else "warn"),
        "held": state is not None and state.held,
        "edge": f"port {service.edge_port}, {service.route_prefix}" if service.edge_port else "none",
        "instances": instance_rows(instances, now),
        "deployments": [
            {
                "name": one.name,
                "url": reverse("admin:deployments_deployment_change", args=(one.pk,)),
                "version": one.release.version,
                "state": state_badge(one.state),
                "when": since(one.created_at, now=now),
                "took": took(one.started_at, one.finished_at),
                "by": one.requested_by,
                "error": one.error,
            }
            for one in deployments
        ],
        "history_url": f"{reverse('admin:deployments_deployment_changelist')}?service__id__exact={service.pk}",
        "releases_url": f"{reverse('admin:deployments_release_changelist')}?service__id__exact={service.pk}",
        "preview_url": reverse("admin:deployments_service_preview", args=(service.pk,)),
        "previous": link(
            reverse("admin:deployments_release_change", args=(state.previous_id,)), "the release before it"
        )
        if state is not None and state.previous_id
        else "",
    }
