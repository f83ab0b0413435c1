"""What a target says when it is asked: reachable, how much space, what is out of step with the rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog

from backups.models import StorageTarget, TargetState
from controlplane.kernel.errors import ZantaraError

from .janitor import stale_uploads_of
from .sets import reconcile
from .targets import open_target

log = structlog.get_logger(__name__)


def check_target(target: StorageTarget, now: datetime) -> TargetState:
    """Ask the target and note what it said. Never raises for a store that is away or refuses: the row says so.

    The figures of a target that does not answer stay as they were when it last did.
    """
    try:
        said = _ask(target, now)
    except ZantaraError as error:
        log.warning("target_not_usable", target=target.name, reason=str(error))
        said = {"reachable": False, "message": str(error)}
    state, _ = TargetState.objects.update_or_create(target=target, defaults={**said, "checked_at": now})
    return state


def _ask(target: StorageTarget, now: datetime) -> dict[str, Any]:
    storage = open_target(target)
    storage.check()
    space = storage.space()
    found = reconcile(target, now, storage=storage)
    return {
        "reachable": True,
        "message": "",
        "free_bytes": space.free_bytes if space else None,
        "total_bytes": space.total_bytes if space else None,
        "orphan_sets": len(found.orphan_sets),
        "missing_sets": len(found.missing_sets),
        "stale_uploads": len(stale_uploads_of(target, now, storage)),
    }
