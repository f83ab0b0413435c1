"""Row leases: one worker at a time works on a row, and one that was given up for dead cannot write any more.

Each acquisition raises the row's fencing token; every later write of that worker is an UPDATE that
demands its token. Whether a lease has *expired* is judged by the ``now`` of whoever wants the row, so
clocks that differ by more than the lease's length cost work twice over, but never a wrong write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from django.db import models, router, transaction
from django.db.models import F, Q

from .errors import LeaseLost, Refused

M = TypeVar("M", bound=models.Model)

#: Columns with which a row's move gives its lease back: in one UPDATE, so that no crash comes between the two.
RELEASED: Mapping[str, Any] = MappingProxyType({"lease_owner": "", "lease_expires_at": None})


class Leased(models.Model):
    """The columns of a lease. ``lease_expires_at`` is null when nobody holds the row."""

    lease_owner = models.CharField(max_length=200, blank=True, default="", editable=False)
    lease_token = models.BigIntegerField(default=0, editable=False)
    lease_expires_at = models.DateTimeField(null=True, blank=True, editable=False, db_index=True)
    lease_heartbeat_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


@dataclass
class Lease:
    """The right to write one row, until it is released or somebody else takes the row after it expired.

    An owner that is merely late (expired, not yet taken over) still holds it.
    """

    model: type[models.Model]
    pk: Any
    owner: str
    token: int
    ttl_seconds: float
    expires_at: datetime
    using: str = field(default="default", repr=False)

    def condition(self) -> dict[str, Any]:
        """What a row must satisfy for this lease to hold: its token, and not released."""
        return {"lease_token": self.token, "lease_expires_at__isnull": False}

    def is_held(self) -> bool:
        """Whether the row still belongs to this lease; the answer may be old by the time it is read."""
        return self._rows().exists()

    def renew(self, now: datetime) -> None:
        """The heartbeat: hold the row for ``ttl_seconds`` from ``now``. LeaseLost if it is no longer ours."""
        expires_at = now + timedelta(seconds=self.ttl_seconds)
        self._write(lease_expires_at=expires_at, lease_heartbeat_at=now)
        self.expires_at = expires_at

    def release(self) -> None:
        """Give the row back. LeaseLost if it was no longer ours."""
        self._write(**RELEASED)

    def guarded_update(self, **changes: Any) -> None:
        """Write columns of the row, or raise LeaseLost and write nothing."""
        own = sorted(name for name in changes if name.startswith("lease_"))
        if own or not changes:
            raise Refused(f"Not to be written under a lease: {', '.join(own) or 'nothing at all'}.")
        self._write(**changes)

    def _rows(self) -> models.QuerySet[Any]:
        return self.model._base_manager.using(self.using).filter(pk=self.pk, **self.condition())

    def _write(self, **changes: Any) -> None:
        if self._rows().update(**changes) != 1:
            raise LeaseLost(
                f"{self.model._meta.label} {self.pk} is no longer leased to {self.owner} (token {self.token}).",
                remedy="Stop working on it; its new owner carries on.",
            )


def free(now: datetime) -> Q:
    """Rows that nobody holds at ``now``: released, never leased, or expired."""
    return Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lte=now)


def due(queryset: models.QuerySet[M], now: datetime) -> models.QuerySet[M]:
    """Those of the rows that could be acquired at ``now``."""
    return queryset.filter(free(now))


def acquire(
    queryset_or_model: models.QuerySet[M] | type[M], pk: Any, *, owner: str, ttl_seconds: float, now: datetime
) -> Lease | None:
    """Take the row for ``ttl_seconds``, or None if somebody holds it or the queryset does not contain it.

    Raises Refused for a nameless owner or a lease of no length.
    """
    if not owner or ttl_seconds <= 0:
        raise Refused("A lease needs an owner and a length.")
    if isinstance(queryset_or_model, models.QuerySet):
        queryset = queryset_or_model.all()
    else:
        queryset = queryset_or_model._base_manager.all()
    pinned: str | None = getattr(queryset, "_db", None)  # by using(); else the database that is written to
    using = pinned or router.db_for_write(queryset.model)
    expires_at = now + timedelta(seconds=ttl_seconds)
    # The UPDATE locks the row until the commit, so the token read after it is the one it wrote.
    with transaction.atomic(using=using):
        taken = (
            due(queryset.using(using).filter(pk=pk), now)
            .order_by()
            .update(
                lease_owner=owner,
                lease_token=F("lease_token") + 1,
                lease_expires_at=expires_at,
                lease_heartbeat_at=now,
            )
        )
        if not taken:
            return None
        token = queryset.model._base_manager.using(using).values_list("lease_token", flat=True).get(pk=pk)
    return Lease(queryset.model, pk, owner, token, ttl_seconds, expires_at, using)
