"""The control plane's own database, restored while nothing runs: beside, checked, swapped, then made fit to run on.

It needs no row: the target may be one that was never saved, and the set is found by what the store says. The former
database is kept. A half-done one is settled by the next call, or by ``settle``: once the swap is done it is finished,
before that it is undone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psycopg
import structlog
from django.conf import settings
from django.db import connections

from backups.errors import CannotRestore, RestoreFailed
from backups.keys import Identity
from backups.killpoints import step_reached
from backups.manifest import Manifest, ManifestArtifact, load_document, load_set, manifest_sha256
from backups.models import StorageTarget
from backups.services import stack_is_up
from backups.sources.base import Finding, Place, Restorer
from backups.sources.pg_connect import control_plane_address
from backups.sources.pg_restorer import PostgresRestorer
from backups.sources.postgres import PostgresSource
from backups.sources.sqlite import SqliteSource
from backups.sources.sqlite_restore import SqliteRestorer, who_has_open
from backups.storage import open_target
from backups.storage.base import Storage
from backups.storage.sets import committed_sets
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable, ZantaraError

from . import aftermath
from . import journal as journals
from .journal import Journal, PartState, SetState
from .own import CONTROL_PLANE, own_sqlite_file
from .parts import describe_target, kind_of, make_source, remove_work, tell_expectations, token_of
from .reading import SetReader
from .restoration import describe
from .steps import demand_all_pass

log = structlog.get_logger(__name__)

LATEST = "latest"
#: A table that only a control plane's database has.
TELLTALE = "backups_backuprecord"
#: Where a fault test kills the process.
KILL_POINTS = (
    "offline_begun",
    "offline_prepared",
    "offline_swap_noted",
    "offline_swapped",
    "offline_migrated",
    "offline_fenced",
    "offline_aborted",
    "offline_rebuilt",
    "offline_ended",
)


@dataclass(frozen=True)
class OfflineRestored:
    """What was done. ``former``: where the database that was replaced is kept; empty if there was none."""

    name: str
    record_name: str
    prefix: str
    captured_at: datetime | None
    former: str
    aborted: tuple[str, ...] = ()
    catalogued: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default_factory=tuple)


def restore_offline(
    target: StorageTarget,
    name: str,
    *,
    identity: Identity,
    artifact: str = "",
    requested_by: str,
    reason: str,
    now: datetime | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> OfflineRestored:
    """Replace this installation's database by the one in a restore point.

    ``target`` need not be saved. ``name``: the restore point's, the prefix of its set, or ``latest``; ``artifact``: the
    part, where it is not the one that was captured as the control plane's own. ``say`` hears each step.

    CannotRestore (nothing was touched) or RestoreFailed (it was put back) say why not; so may NoIdentity, Damaged,
    NotAuthentic and StorageUnavailable, all before anything is touched.
    """
    now = now or clock.now()
    if not requested_by.strip() or not reason.strip():
        raise Refused("A restore replaces live data.", remedy="Say who wants it and why.")
    demand_nothing_runs()
    settled = settle(now=now, say=say)
    storage = open_target(target)
    prefix, manifest = find_set(storage, name)
    if settled is not None and settled.prefix == prefix:
        return settled
    part = own_artifact(manifest, artifact)
    reader = SetReader(storage, prefix)
    if not reader.opens_with(identity):
        raise CannotRestore(
            "not possible: this identity is none of those that the set was encrypted to.",
            remedy="Use the recovery key.",
        )
    journal = _new_journal(target, storage, prefix, manifest, part, requested_by, reason, now)
    with journals.held(journal.name) as ours:
        if not ours:
            raise CannotRestore(f"{journal.name} is being worked on.", remedy="Wait until it has ended.")
        _bring_back(journal, reader, identity, say)
        return _finish(journal, now, say)


def demand_nothing_runs() -> None:
    """CannotRestore while the stack runs, or anybody else has the database open."""
    if stack_is_up(Path(settings.ZANTARA_DATA_DIR)):
        raise CannotRestore(
            "The stack runs on this data directory (`manage.py up`).", remedy="Stop it, then restore offline."
        )
    connections.close_all()
    own = own_sqlite_file()
    users = who_has_open(own) if own is not None else _sessions()
    if users:
        raise CannotRestore(
            f"The control plane's database is in use by {', '.join(users)}.",
            remedy="Stop web, workers and beat, then restore offline.",
        )


def find_set(storage: Storage, name: str) -> tuple[str, Manifest]:
    """The prefix and authentic manifest of a set: by prefix, by its restore point's name, or the newest that holds a
    control plane's database. CannotRestore where the store has none of that name.
    """
    if "/" in name:
        prefix = name.strip("/")
        return prefix, load_set(storage, prefix)
    unreadable = []
    for found in sorted(committed_sets(storage), key=lambda one: one.set_id, reverse=True):  # ids sort by time
        try:
            manifest = load_set(storage, found.prefix)
        except ZantaraError as error:
            unreadable.append(f"{found.prefix}: {error}")
            continue
        if manifest.name == name or (name == LATEST and any(map(is_own_artifact, manifest.artifacts))):
            return found.prefix, manifest
    hint = f" Not readable: {'; '.join(unreadable[:3])}" if unreadable else ""
    raise CannotRestore(
        f"The store holds no committed restore point {name!r}.{hint}",
        remedy="Look with `manage.py backup list`, or name the folder of the set.",
    )


def is_own_artifact(artifact: ManifestArtifact) -> bool:
    """Whether it was captured as the database of a control plane."""
    return CONTROL_PLANE in (artifact.settings.get("path"), artifact.settings.get("connection"))


def own_artifact(manifest: Manifest, name: str = "") -> ManifestArtifact:
    """The part that is a control plane's database; CannotRestore where there is none, or of another make than ours."""
    found = [one for one in manifest.artifacts if one.name == name or (not name and is_own_artifact(one))]
    if not found:
        raise CannotRestore(
            f"{manifest.name} holds no {name or 'database of a control plane'}.",
            remedy=f"It holds: {', '.join(one.name for one in manifest.artifacts)}. Other parts are restored online.",
        )
    ours = "sqlite" if own_sqlite_file() is not None else "postgres"
    if found[0].kind != ours:
        raise CannotRestore(
            f"{found[0].name} is of kind {found[0].kind}, and this installation's database is {ours}.",
            remedy="Set ZANTARA_DATABASE_URL to a database of that make, or unset it for SQLite.",
        )
    return found[0]


def settle(*, now: datetime | None = None, say: Callable[[str], None] = lambda _: None) -> OfflineRestored | None:
    """End what an offline restore that was killed has left; the one that was finished, if any. Needs no identity."""
    now, last = now or clock.now(), None
    for journal in journals.unfinished():
        if journal.mode != "offline":
            continue
        with journals.held(journal.name) as ours:
            if not ours:
                raise CannotRestore(f"{journal.name} is being worked on.", remedy="Wait until it has ended.")
            if "swap" in journal.done:
                say(f"finishing {journal.name}, which was interrupted")
                last = _finish(journal, now, say)
            else:
                say(f"undoing {journal.name}, which was interrupted")
                _take_back(journal, "it was interrupted")
    return last


def has_unfinished() -> bool:
    """Whether an offline restore was interrupted: nothing should run on the database before it is settled."""
    return any(journal.mode == "offline" for journal in journals.unfinished())


# --- the steps ----------------------------------------------------------------------------------------------------


def _bring_back(journal: Journal, reader: SetReader, identity: Identity, say: Callable[[str], None]) -> None:
    part = journal.parts[0]
    try:
        restorer = _restorer(journal)
        expectations = reader.expectations(part.name, identity)
        _demand_telltale(part.name, expectations)
        tell_expectations(restorer, expectations)
        _demand_fit(restorer.preflight(part.plain_bytes))
        step_reached("offline_begun")
        say(f"restoring {part.name} of {journal.set.record_name} beside the present database")
        with closing(reader.chunks(part.name, identity, lambda _: None)) as chunks:
            restorer.prepare(chunks)
            for _ in chunks:  # the last byte proves the first
                pass
        part.memory = restorer.memory
        demand_all_pass(part.name, restorer.validate(expectations))
        journal.save()
        step_reached("offline_prepared")
        say("putting it in place")
        part.swap = "begun"
        journal.save()
        step_reached("offline_swap_noted")
        connections.close_all()
        restorer.swap()
        step_reached("offline_swapped")
        part.memory, part.swap = restorer.memory, "done"
        aftermath.demand_known_schema()
        say("bringing it up to this release")
        aftermath.migrate()
        step_reached("offline_migrated")
        journal.done.append("swap")
        journal.save()
    except BaseException as error:  # whatever it is, the former database comes back
        _take_back(journal, describe(error))
        raise


def _finish(journal: Journal, now: datetime, say: Callable[[str], None]) -> OfflineRestored:
    """From here on forward only: make the restored database fit to run on. Each act may run twice."""
    reason = f"aborted: restored from {journal.set.record_name}"
    connections.close_all()
    aftermath.raise_fences()
    step_reached("offline_fenced")
    aborted = aftermath.abort_runs(reason, now)
    aftermath.put_off_deletions(now)
    step_reached("offline_aborted")
    say("looking for restore points that are newer than it")
    catalogued, warnings = aftermath.rebuild_catalogues(now)
    step_reached("offline_rebuilt")
    said, waiting = aftermath.tell_others()
    former = _keep_former(journal)
    remove_work(journal)
    journal.state, journal.finished_at = "done", now.isoformat()
    journal.save()
    step_reached("offline_ended")
    journals.lock_of(journal.name).unlink(missing_ok=True)
    log.info("restored_offline", restore=journal.name, backup=journal.set.record_name, former=former)
    captured = journal.steps[0].detail if journal.steps else ""
    return OfflineRestored(
        name=journal.name,
        record_name=journal.set.record_name,
        prefix=journal.set.prefix,
        captured_at=datetime.fromisoformat(captured) if captured else None,
        former=former,
        aborted=tuple(aborted),
        catalogued=tuple(catalogued),
        said=tuple(said),
        warnings=(*warnings, *waiting),
    )


def _take_back(journal: Journal, why: str) -> None:
    """Undo; RestoreFailed, with what stands where, if even that fails."""
    connections.close_all()
    part = journal.parts[0]
    try:
        restorer = _restorer(journal)
        if part.swap != "no":
            restorer.undo()
        restorer.discard()
    except (ZantaraError, OSError, psycopg.Error) as error:
        raise RestoreFailed(
            f"The former database could not be put back ({describe(error)}) after this: {why}",
            remedy=f"The journal {journal.path} says what was begun; the names of what is kept hold {part.token}. "
            "Mend what hinders it and call this again.",
        ) from error
    part.swap, journal.going = "undone", "back"
    journal.state, journal.failure, journal.finished_at = "rolled_back", why, clock.now().isoformat()
    journal.save()
    remove_work(journal)
    log.warning("offline_restore_undone", restore=journal.name, why=why)


def _keep_former(journal: Journal) -> str:
    """The former database under a name that says what it is; nothing removes it but a person."""
    restorer = _restorer(journal)
    if isinstance(restorer, SqliteRestorer):
        kept = restorer.path.with_name(f"{restorer.path.name}.before-{journal.name}")
        if restorer.before.exists():
            restorer.before.replace(kept)
        restorer.discard()
        return str(kept) if kept.exists() else ""
    if isinstance(restorer, PostgresRestorer) and restorer.memory.get("old_oid") is not None:
        return f"the database {restorer.kept}"
    return ""


def _restorer(journal: Journal) -> Restorer:
    part = journal.parts[0]
    path = journal.work_folder() / part.name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Place(path, part.token)
    source = make_source(part.name, part.kind, part.settings, {})
    own = source if isinstance(source, SqliteSource | PostgresSource) else None
    restorer: Restorer = own.offline_restorer(place) if own is not None else source.restorer(place)
    if part.memory:
        restorer.memory = dict(part.memory)
    return restorer


# --- what is looked at before -------------------------------------------------------------------------------------


def _demand_fit(findings: list[Finding]) -> None:
    failing = [finding.detail for finding in findings if finding.status == "fail"]
    if failing:
        raise CannotRestore(f"{'; '.join(failing)}.", remedy="Nothing was touched.")


def _demand_telltale(name: str, expectations: object) -> None:
    """Whoever names a part by hand may name a wrong one."""
    if TELLTALE not in str(expectations):
        raise CannotRestore(f"{name} is no database of a control plane.", remedy="Choose another part.")


def _sessions() -> list[str]:
    """Other clients of our PostgreSQL database; none where it is not there (a new machine)."""
    try:
        with control_plane_address().connect() as connection:
            rows = connection.execute(
                "SELECT coalesce(nullif(application_name, ''), 'a client'), pid FROM pg_stat_activity WHERE datname = "
                "current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchall()
    except Unavailable:
        return []
    return [f"{name} ({pid})" for name, pid in rows]


def _new_journal(
    target: StorageTarget,
    storage: Storage,
    prefix: str,
    manifest: Manifest,
    part: ManifestArtifact,
    requested_by: str,
    reason: str,
    now: datetime,
) -> Journal:
    name = _free_name(now)
    digest = manifest_sha256(load_document(storage, prefix))
    own = {"path": CONTROL_PLANE} if kind_of(part.kind).kind == "sqlite" else {"connection": CONTROL_PLANE}
    journal = Journal(
        name=name,
        mode="offline",
        created_at=now.isoformat(),
        host=socket.gethostname(),
        requested_by=requested_by,
        reason=reason,
        options={},
        set=SetState(manifest.name, prefix, digest, describe_target(target)),
        parts=[PartState(part.name, part.kind, own, "", 0, part.plain_bytes, token_of(name, part.name))],
        state="restoring",
    )
    journal.begin("begun", part.name, now).detail = part.captured_to_at.isoformat() if part.captured_to_at else ""
    journal.save()
    return journal


def _free_name(now: datetime) -> str:
    day = f"zantara-restore-{now:%Y-%m-%d}-offline"
    names = (day if number == 1 else f"{day}-{number}" for number in range(1, 1000))
    return next(name for name in names if not journals.path_of(name).exists())
