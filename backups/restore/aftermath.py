"""What must happen once the control plane's own database came back from a backup, before anything runs on it.

A worker of the time that was lost may still live somewhere: every fence is raised above what it could hold. What was
going on when the backup was taken goes on no more. Sets that are newer than the restored rows are found in the stores.
Everything here may run twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import structlog
from django.apps import apps
from django.core.management import call_command
from django.db import connection, models
from django.db.models import F

from backups.catalogue import rebuild
from backups.engine import commit
from backups.engine.expiry import UNDO_TIME
from backups.engine.recover import committed_set
from backups.errors import RestoreFailed
from backups.machines import PROOF, RECORD, RESTORE
from backups.models import (
    BackupEvent,
    BackupRecord,
    ProofEvent,
    ProofRun,
    RestoreEvent,
    RestoreRecord,
    StorageTarget,
)
from backups.storage import open_target
from controlplane.kernel import leases, transitions
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.leases import Leased
from controlplane.kernel.ports import after_offline_restore

log = structlog.get_logger(__name__)

#: More leases than a row is given in any lost time: tokens count acquisitions, a run needs a handful.
FENCE = 2**20
ACTOR = "offline restore"
_LEASE_SECONDS = 600.0


def demand_known_schema() -> None:
    """RestoreFailed where the database holds migrations that this release does not have."""
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(connection)
    ours = {app for app, _ in loader.disk_migrations}
    unknown = sorted(
        f"{app}.{name}" for app, name in loader.applied_migrations if app in ours and not _is_known(loader, app, name)
    )
    if not loader.applied_migrations:
        raise RestoreFailed("The restored database holds no tables of a control plane.", remedy="Choose another part.")
    if unknown:
        raise RestoreFailed(
            f"The restored database was made by a newer release (it has {', '.join(unknown[:3])}).",
            remedy="Install that release, or choose an older restore point.",
        )


def _is_known(loader: Any, app: str, name: str) -> bool:
    if (app, name) in loader.disk_migrations:
        return True
    return any((app, name) in getattr(m, "replaces", ()) for m in loader.disk_migrations.values())


def migrate() -> None:
    """Bring an older database up to this release."""
    call_command("migrate", interactive=False, verbosity=0)


def raise_fences() -> int:
    """Clear every lease and lift its token; how many rows there were.

    The numbers of new rows are lifted as far: one that is made now must not be taken for another that had its number
    in the lost time.
    """
    count = 0
    for model in apps.get_models():
        if issubclass(model, Leased) and model._meta.managed and not model._meta.proxy:
            count += model._base_manager.update(
                lease_token=F("lease_token") + FENCE, lease_owner="", lease_expires_at=None, lease_heartbeat_at=None
            )
            _skip_numbers(model)
    return count


def _skip_numbers(model: type[models.Model]) -> None:
    table, column = model._meta.db_table, model._meta.pk.column
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s", [FENCE, table])
            if cursor.rowcount == 0:  # no row was ever made
                cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, FENCE])
        elif connection.vendor == "postgresql":
            cursor.execute(
                "SELECT setval(name, nextval(name) + %s) FROM pg_get_serial_sequence(%s, %s) AS name",
                [FENCE, table, column],
            )


def abort_runs(reason: str, now: datetime) -> list[str]:
    """End everything that was under way when the backup was taken; what was ended, by name."""
    return [*_abort_backups(reason, now), *_abort_proofs(reason, now), *_abort_restores(reason, now)]


def _abort_backups(reason: str, now: datetime) -> Iterator[str]:
    """A run whose set is whole in the store (that of the very backup is) is committed; every other has failed.

    Its prefix is let go: a row that is over and has one is one whose objects are deleted, and the set may have been
    committed in the time that was lost.
    """
    for record in BackupRecord.objects.filter(state__in=("queued", "running")).select_related("target"):
        if record.state == "running" and _commit_if_whole(record, reason, now):
            continue
        changes = {"error": reason, "finished_at": now, "progress": {}, "prefix": ""}
        if _end(record, "failed", RECORD, BackupEvent, reason, now, changes):
            yield record.name


def _commit_if_whole(record: BackupRecord, reason: str, now: datetime) -> bool:
    try:
        found = committed_set(open_target(record.target), record)
    except ZantaraError as error:  # then the rebuilt catalogue finds it when the store is back
        log.warning("store_not_asked", backup=record.name, error=str(error))
        return False
    if found is None:
        return False
    lease = leases.acquire(BackupRecord, record.pk, owner=ACTOR, ttl_seconds=_LEASE_SECONDS, now=now)
    if lease is None:  # nothing else runs
        return False
    manifest, digest = found
    return commit.committed(record, manifest, digest, lease=lease, reason=f"{reason}; its set is whole")


def _abort_proofs(reason: str, now: datetime) -> Iterator[str]:
    for proof in ProofRun.objects.filter(state__in=("queued", "running")):
        if _end(proof, "cancelled", PROOF, ProofEvent, reason, now, {"error": reason, "finished_at": now}):
            yield f"proof {proof}"


def _abort_restores(reason: str, now: datetime) -> Iterator[str]:
    """What such a restore had swapped and stopped is in its journal, which is carried on by itself."""
    for restore in RestoreRecord.objects.exclude(state__in=RESTORE.terminal_states):
        changes = {"error": reason, "finished_at": now}
        if restore.state in ("queued", "preflight"):
            ended = _end(restore, "cancelled", RESTORE, RestoreEvent, reason, now, changes)
        else:
            if restore.state != "rolling_back":
                _end(restore, "rolling_back", RESTORE, RestoreEvent, reason, now, {})
            ended = _end(restore, "failed", RESTORE, RestoreEvent, reason, now, changes)
        if ended:
            yield restore.name


def put_off_deletions(now: datetime) -> int:
    """A day again for every set that was marked when the backup was taken: that it was pinned since is not known."""
    marked = BackupRecord.objects.filter(state="expiring", expires_at__lt=now + UNDO_TIME)
    return marked.update(expires_at=now + UNDO_TIME)


def _end(
    row: models.Model,
    to: str,
    machine: transitions.Machine,
    event: type[transitions.TransitionEvent],
    reason: str,
    now: datetime,
    changes: dict[str, Any],
) -> bool:
    return transitions.advance(
        row, to, machine=machine, event=event, reason=reason, actor=ACTOR, now=now, changes=changes
    )


def rebuild_catalogues(now: datetime) -> tuple[list[str], list[str]]:
    """Take in what every target holds: names of the sets that were added, and what could not be asked or read."""
    added: list[str] = []
    warnings: list[str] = []
    for pk, name in list(StorageTarget.objects.values_list("pk", "name")):
        try:
            rebuilt = rebuild(StorageTarget.objects.get(pk=pk), now)
        except ZantaraError as error:
            warnings.append(f"the catalogue of {name} was not rebuilt: {error}")
            continue
        added += rebuilt.added
        warnings += [f"{prefix} was not taken in: {why}" for prefix, why in rebuilt.unreadable.items()]
    return added, warnings


def tell_others() -> tuple[list[str], list[str]]:
    """Let the rooms above do theirs (the limits are put in force): what they did, and what has to wait."""
    done, warnings = [], []
    for act in after_offline_restore:
        try:
            done.append(act())
        except ZantaraError as error:
            warnings.append(str(error))
    return done, warnings
