"""Whether the engine ticks: for ``/health``, a warning only, since what is deployed serves without it."""

from __future__ import annotations

from controlplane.kernel import clock
from controlplane.kernel.registry import Probe, ProbeResult

#: A service's tick may be so late before somebody should look.
LATE_SECONDS = 30.0


def probe_engine() -> ProbeResult:
    from .models import ServiceState

    rows = ServiceState.objects.filter(service__enabled=True, due_at__isnull=False)
    first = rows.order_by("due_at").values_list("due_at", flat=True).first()
    if first is None:
        return ProbeResult("pass", "nothing is deployed")
    late = max(0.0, (clock.now() - first).total_seconds())
    if late > LATE_SECONDS:
        return ProbeResult(
            "warn", f"the latest tick is {late:.0f} s late", "See that beat and a worker of the queue “engine” run.",
            observed=round(late, 1), unit="s",
        )  # fmt: skip
    return ProbeResult("pass", "every service is looked after", observed=round(late, 1), unit="s")


PROBE = Probe(
    name="deployments", label="Deployments", run=probe_engine, timeout_seconds=1.0, docs="docs/deployments.md#health"
)
