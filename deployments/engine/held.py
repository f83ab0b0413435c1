"""What a tick holds while it works: the service's row under lease, and its deployment's. Nothing is touched without."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from controlplane.kernel import clock, leases
from controlplane.kernel.errors import LeaseLost
from controlplane.kernel.leases import Lease
from deployments import metrics
from deployments.machines import ACTIVE
from deployments.models import Deployment, Service, ServiceState

LEASE_SECONDS = 15.0


@dataclass
class Held:
    """A service whose tick is ours. ``fence`` is asked before every act that somebody outside could see."""

    service: Service
    state: ServiceState
    lease: Lease
    deployment: Deployment | None = None
    deployment_lease: Lease | None = None

    def fence(self, now: datetime | None = None) -> None:
        """Raise LeaseLost unless both rows are still ours; they are for another fifteen seconds then."""
        at = now or clock.now()
        with transaction.atomic():
            self.lease.renew(at)
            if self.deployment_lease is not None:
                self.deployment_lease.renew(at)

    def write_state(self, **changes: Any) -> None:
        """Columns of the service's state, under its lease."""
        self.lease.guarded_update(**changes)
        for name, value in changes.items():
            setattr(self.state, name, value)

    def write_deployment(self, **changes: Any) -> None:
        """Columns of the deployment, under its lease."""
        assert self.deployment is not None  # noqa: S101  (asked by those that have one)
        assert self.deployment_lease is not None  # noqa: S101
        self.deployment_lease.guarded_update(**changes)
        for name, value in changes.items():
            setattr(self.deployment, name, value)

    def let_go(self) -> None:
        """Give both rows back, as far as they are ours."""
        for lease in (self.deployment_lease, self.lease):
            if lease is not None:
                with suppress(LeaseLost):
                    lease.release()


def take(service_pk: int, *, owner: str, now: datetime) -> Held | None:
    """The service's tick, or None where somebody has it (or there is no such service)."""
    row = ServiceState.objects.filter(service_id=service_pk).values("pk", "lease_owner", "lease_expires_at").first()
    if row is None:
        return None
    lease = leases.acquire(ServiceState, row["pk"], owner=owner, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is None:
        return None
    if row["lease_owner"] and row["lease_expires_at"] is not None:
        metrics.takeovers.add()  # its last holder never gave it back
    state = ServiceState.objects.select_related("service", "current", "previous").get(pk=row["pk"])
    held = Held(state.service, state, lease)
    take_deployment(held, now)
    return held


def take_deployment(held: Held, now: datetime) -> None:
    """The one that is active, else the first that waits, with its lease. None where somebody still has it."""
    held.deployment = held.deployment_lease = None
    rows = Deployment.objects.select_related("release", "from_release", "backup").filter(service=held.service)
    found = rows.filter(state__in=ACTIVE).first() or rows.filter(state="waiting").order_by("created_at", "pk").first()
    if found is None:
        return
    lease = leases.acquire(Deployment, found.pk, owner=held.lease.owner, ttl_seconds=LEASE_SECONDS, now=now)
    if lease is not None:
        held.deployment, held.deployment_lease = rows.get(pk=found.pk), lease
