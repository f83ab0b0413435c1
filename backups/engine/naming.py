"""What restore points and attempts are called."""

from __future__ import annotations

import secrets
from datetime import datetime, tzinfo
from uuid import UUID

from backups.models import BackupRecord

_FIRST = "zantara-backup-"


def free_name(at: datetime, zone: tzinfo) -> str:
    """``zantara-backup-2026-11-23``, ``…-2`` for the second of that day in the plan's zone.

    Two that ask at once may get the same; the column is unique, and the loser asks again.
    """
    day = f"{_FIRST}{at.astimezone(zone):%Y-%m-%d}"
    numbers = [
        int(end[1:] or 1) if end else 1
        for name in BackupRecord.objects.filter(name__startswith=day).values_list("name", flat=True)
        if not (end := name[len(day) :]) or (end[0] == "-" and end[1:].isdigit())
    ]
    return f"{day}-{max(numbers) + 1}" if numbers else day


def new_set_id(at: datetime) -> UUID:
    """A UUID version 7: sets of a folder sort by when their attempt began."""
    number = (int(at.timestamp() * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=number)
