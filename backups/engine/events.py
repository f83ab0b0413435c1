"""Acts on a restore point that move no state, noted beside those that do."""

from __future__ import annotations

from datetime import datetime

from backups.models import BackupEvent, BackupRecord
from controlplane.kernel import clock


def note(record: BackupRecord, reason: str, *, actor: str = "", now: datetime | None = None) -> None:
    """Write an event whose two states are the one that the record is in."""
    BackupEvent(
        subject=record,
        at=now or clock.now(),
        from_state=record.state,
        to_state=record.state,
        reason=reason,
        actor=actor,
    ).save()
