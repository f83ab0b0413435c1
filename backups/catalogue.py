"""The catalogue of a target from its store alone: rows made of signed manifests.

Whoever has the bucket and the keys can build it anew on another machine. Nothing in the store is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import structlog
from django.db import IntegrityError, transaction

from backups.engine.commit import artifact_row
from backups.engine.events import note
from backups.errors import Damaged, ObjectMissing
from backups.manifest import Manifest, load_document, load_set, manifest_sha256
from backups.models import BackupPlan, BackupRecord, BackupSource, StorageTarget
from backups.storage import open_target
from backups.storage.base import Storage
from backups.storage.sets import FoundSet, Reconciled, committed_sets, reconcile, scan
from controlplane.kernel.errors import NotAuthentic, Refused

log = structlog.get_logger(__name__)

ACTOR = "catalogue"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did. ``unreadable``: prefix -> why its set could not be taken in; such sets are left alone."""

    added: tuple[str, ...] = ()
    known: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def rebuild(target: StorageTarget, now: datetime, *, storage: Storage | None = None) -> Rebuilt:
    """A record for each committed set that has none. May be interrupted and done again; StorageUnavailable passes.

    A set that is damaged, or signed by a key that is not trusted here, is told of and gets no row: nothing that it
    says of itself can be believed.
    """
    storage = storage or open_target(target)
    added, known, unreadable = [], 0, {}
    for found in committed_sets(storage):
        if _is_known(target, found):
            known += 1
            continue
        try:
            manifest = load_set(storage, found.prefix)
            digest = manifest_sha256(load_document(storage, found.prefix))
        except ObjectMissing:
            continue  # deleted since it was listed
        except (Damaged, NotAuthentic, Refused) as error:
            log.warning("set_not_readable", prefix=found.prefix, reason=str(error))
            unreadable[found.prefix] = str(error)
            continue
        record = _add(target, found, manifest, digest, now)
        log.info("set_catalogued", backup=record.name, prefix=found.prefix)
        added.append(record.name)
    return Rebuilt(tuple(added), known, unreadable)


def _is_known(target: StorageTarget, found: FoundSet) -> bool:
    """A tombstone is no record of a set that is there; every other row is, also one that is being worked on."""
    rows = BackupRecord.objects.filter(target=target, prefix=found.prefix)
    return rows.exclude(state="deleted").exists()


def _add(target: StorageTarget, found: FoundSet, manifest: Manifest, digest: str, now: datetime) -> BackupRecord:
    for number in range(1, 1000):
        name = manifest.name if number == 1 else f"{manifest.name[:68]}-found-{number}"
        if BackupRecord.objects.filter(name=name).exists():
            continue
        try:
            with transaction.atomic():
                return _write(target, found, manifest, digest, name, now)
        except IntegrityError:  # another has just taken the name or the scheduled time
            continue
    raise Refused(f"There is no free name for {manifest.name}.", remedy="Delete records of that name first.")


def _write(
    target: StorageTarget, found: FoundSet, manifest: Manifest, digest: str, name: str, now: datetime
) -> BackupRecord:
    plan = BackupPlan.objects.filter(name=manifest.plan).first()
    record = BackupRecord(
        name=name,
        plan=plan,
        plan_name=manifest.plan,
        target=target,
        state="committed",
        trigger=BackupRecord.Trigger.CATALOGUE,
        only_sources=_part_of_the_plan(manifest),
        requested_by=manifest.requested_by[:200],
        scheduled_for=manifest.scheduled_for if _is_free(plan, manifest.scheduled_for) else None,
        due_at=manifest.started_at,
        created_at=manifest.started_at,
        started_at=manifest.started_at,
        finished_at=manifest.committed_at,
        committed_at=manifest.committed_at,
        attempt=1,
        set_id=manifest.set_id,
        prefix=found.prefix,
        manifest_sha256=digest,
        plain_bytes=sum(artifact.plain_bytes for artifact in manifest.artifacts),
        compressed_bytes=sum(artifact.compressed_bytes for artifact in manifest.artifacts),
        stored_bytes=sum(artifact.stored_bytes for artifact in manifest.artifacts),
        warnings=list(manifest.warnings),
    )
    record.save()
    sources = dict(BackupSource.objects.values_list("name", "pk"))
    for artifact in manifest.artifacts:
        artifact_row(record, artifact, sources.get(artifact.name)).save()
    note(record, f"Found in the store; its run was “{manifest.trigger}”.", actor=ACTOR, now=now)
    return record


def _part_of_the_plan(manifest: Manifest) -> list[str]:
    """The sources, where the set holds not all of the plan's: retention must not let it stand for a whole one."""
    if not manifest.only_sources and manifest.trigger == BackupRecord.Trigger.SAFETY:
        return [artifact.name for artifact in manifest.artifacts]  # made before manifests said so
    return list(manifest.only_sources)


def _is_free(plan: BackupPlan | None, scheduled_for: datetime | None) -> bool:
    if scheduled_for is None:
        return False
    return not BackupRecord.objects.filter(plan=plan, scheduled_for=scheduled_for).exists()


__all__ = ["FoundSet", "Rebuilt", "Reconciled", "rebuild", "reconcile", "scan"]
