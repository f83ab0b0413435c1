"""What the engine counts, and what a scrape reads of deployments from their rows: a few queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from django.db.models import Min

from controlplane.kernel import clock
from controlplane.monitoring import registry
from controlplane.monitoring.registry import Reading

takeovers = registry.counter("zantara_engine_takeovers_total")
fence_rejections = registry.counter("zantara_engine_fence_rejections_total")
ends = registry.counter("zantara_deployment_ends_total")
detect_seconds = registry.histogram("zantara_deployment_detect_seconds")

CONDITIONS = ("starting", "ready", "unready", "draining", "stopping", "failed")
_SHARES = (("requested", "requested_permille"), ("effective", "effective_permille"))


def readings() -> Iterator[Reading]:
    """The gauges of a scrape. What has never happened is absent."""
    from deployments.machines import ACTIVE
    from deployments.models import Deployment, Instance, ServiceState

    now = clock.now()
    first = ServiceState.objects.filter(service__enabled=True).aggregate(first=Min("due_at"))["first"]
    if first is not None:
        yield Reading("zantara_engine_tick_lag_seconds", max(0.0, (now - first).total_seconds()))
    for deployment in Deployment.objects.filter(state__in=(*ACTIVE, "waiting")).select_related("service"):
        yield from _of_deployment(deployment)
    found: Counter[tuple[str, str]] = Counter()
    for instance in Instance.objects.filter(stopped_at__isnull=True).select_related("service"):
        found[instance.service.name, "failed" if instance.failure else instance.condition] += 1
    for (service, condition), count in sorted(found.items()):
        yield Reading("zantara_instances", count, (service, condition))


def _of_deployment(deployment: object) -> Iterator[Reading]:
    from deployments.models import Deployment

    assert isinstance(deployment, Deployment)  # noqa: S101  (for the type checker: models cannot be imported above)
    service, release = deployment.service.name, deployment.release.version
    yield Reading("zantara_deployment_state", 1.0, (service, release, deployment.state))
    for kind, column in _SHARES:
        if (permille := getattr(deployment, column)) is not None:
            yield Reading("zantara_deployment_share_ratio", permille / 1000, (service, release, kind))
    numbers = deployment.verdict.get("numbers", {})
    for test in ("errors", "slow"):
        if isinstance(value := numbers.get(f"e_{test}"), int | float):
            yield Reading("zantara_deployment_evidence", float(value), (service, test))
    if deployment.observed_at is not None:
        age = (clock.now() - deployment.observed_at).total_seconds()
        yield Reading("zantara_judge_source_age_seconds", max(0.0, age), (service,))


__all__ = ["detect_seconds", "ends", "fence_rejections", "readings", "takeovers"]
