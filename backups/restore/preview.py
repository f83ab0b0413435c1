"""What a restore would do, and everything that speaks against it; the first step of a restore asks the same.

Changes nothing: Restorers are only asked for their preflight.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from backups.errors import CannotRestore, NoIdentity
from backups.keys import Identity
from backups.machines import RESTORE
from backups.models import Artifact, BackupPlan, BackupRecord, RestoreRecord
from backups.services import ChildControl
from backups.sources.base import Finding, Place
from controlplane.kernel.errors import ZantaraError
from controlplane.kernel.ports import ServiceControl, all_service_controls

from . import journal as journals
from .options import Options, choose
from .own import is_own_database
from .parts import Origin, describe_target, kind_of, origin_of, tell_expectations, token_of
from .reading import SetReader

#: A restore stands beside the live data before it takes their place.
SPACE_FACTOR = 2
#: Where a record may be restored from: its objects are all there.
RESTORABLE = ("committed", "expiring")


@dataclass(frozen=True)
class PartPreview:
    """One part that would be restored, with what its Restorer found."""

    name: str
    kind: str
    label: str
    group: str
    plain_bytes: int
    stored_bytes: int
    captured_at: datetime | None
    proof_level: int | None
    restore_seconds: float | None
    summary: Mapping[str, Any]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ServicePreview:
    """One service that could be stopped; ``is_running`` None: it cannot be told."""

    name: str
    label: str
    is_running: bool | None
    would_stop: bool


@dataclass(frozen=True)
class Preview:
    """``findings`` concern the whole, those of a part are with it; ``refusals`` say why it would not begin."""

    parts: tuple[PartPreview, ...]
    findings: tuple[Finding, ...]
    services: tuple[ServicePreview, ...]
    needs_bytes: int
    refusals: tuple[str, ...]

    @property
    def may_begin(self) -> bool:
        return not self.refusals


@dataclass
class _Seen:
    findings: list[Finding] = field(default_factory=list)

    def ask(self, what: str, question: Callable[[], Iterable[Finding]]) -> list[Finding]:
        """The findings of one question; an error of ours is a finding too."""
        try:
            return list(question())
        except ZantaraError as error:
            return [Finding("fail", f"{what}: {error}" if what else str(error))]


def preview(
    record: BackupRecord,
    artifact_names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    restore: RestoreRecord | None = None,
    identity: Callable[[], Identity] | None = None,
) -> Preview:
    """Everything that would be done and everything against it; raises Refused only for nonsensical options.

    ``restore``: the one that asks, which does not stand in its own way. ``identity``: what will open the set (raises
    NoIdentity); without it, as in a page, nothing is decrypted, and that the proof worker has one is only assumed.
    """
    chosen = Options.of(options)
    seen = _Seen()
    artifacts = {artifact.name: artifact for artifact in record.artifacts.select_related("source")}
    origins: dict[str, Origin] = {}
    unknown = seen.ask("", lambda: _origins_into(origins, artifacts.values(), artifact_names))
    names: list[str] = []
    unknown += seen.ask("", lambda: _choose_into(names, origins, artifact_names, chosen))
    opened: list[SetReader] = []
    stored = seen.ask("the stored set", lambda: _stored(record, names, opened))
    key, known = _identity(identity, opened)
    parts = tuple(_part(seen, artifacts[name], origins[name], opened, key) for name in names)
    whole = [
        *unknown,
        *seen.ask("", lambda: _record(record)),
        *stored,
        *known,
        *seen.ask("", lambda: _space(parts)),
        *_others(names, chosen, restore),
        *_safety(record, names, chosen),
    ]
    controls = all_service_controls()
    stopped = seen.ask("", lambda: _services(controls, chosen))
    findings = (*whole, *stopped)
    failing = [finding.detail for finding in findings if finding.status == "fail"]
    failing += [f"{part.name}: {f.detail}" for part in parts for f in part.findings if f.status == "fail"]
    would_stop = set(services_to_stop(controls, chosen)) if not _fails(stopped) else set()
    return Preview(
        parts=parts,
        findings=findings,
        services=tuple(
            ServicePreview(name, control.label, control.is_running(), name in would_stop)
            for name, control in controls.items()
        ),
        needs_bytes=SPACE_FACTOR * sum(part.plain_bytes for part in parts),
        refusals=tuple(failing),
    )


def services_to_stop(controls: Mapping[str, ServiceControl], options: Options) -> list[str]:
    """Names in the order in which they are stopped; CannotRestore for one that nothing here controls.

    With ``stop_services`` and none named: those that administrators described, and those that are deployed. The
    stack's own children are stopped only by name.
    """
    if not options.stops_services:
        return []
    if options.services:
        for name in options.services:
            if name not in controls:
                raise CannotRestore(
                    f"Nothing here can stop the service {name!r}.",
                    remedy=f"It can stop: {', '.join(sorted(controls)) or 'none'}. Others are described in the admin.",
                )
        return list(options.services)
    return [name for name, control in controls.items() if not isinstance(control, ChildControl)]


def _fails(findings: Iterable[Finding]) -> bool:
    return any(finding.status == "fail" for finding in findings)


def _origins_into(origins: dict[str, Origin], artifacts: Iterable[Artifact], named: Sequence[str]) -> Iterable[Finding]:
    for artifact in artifacts:
        origin = origin_of(artifact)
        try:
            _ = origin.group
        except CannotRestore as error:
            # a kind that this version lacks hinders only whoever wants that part
            yield Finding("fail" if artifact.name in named else "warn", f"{artifact.name}: {error}")
        else:
            origins[artifact.name] = origin


def _choose_into(
    names: list[str], origins: Mapping[str, Origin], named: Sequence[str], options: Options
) -> Iterable[Finding]:
    names += choose(origins.values(), named, options)
    return ()


def _part(
    seen: _Seen, artifact: Artifact, origin: Origin, opened: Sequence[SetReader], key: Identity | None
) -> PartPreview:
    return PartPreview(
        name=artifact.name,
        kind=artifact.kind,
        label=kind_of(artifact.kind).label,
        group=origin.group,
        plain_bytes=artifact.plain_bytes,
        stored_bytes=artifact.stored_bytes,
        captured_at=artifact.captured_to_at,
        proof_level=artifact.proof_level,
        restore_seconds=artifact.restore_seconds,
        summary=artifact.summary,
        findings=tuple(seen.ask("", lambda: _part_findings(artifact, origin, opened, key))),
    )


def _part_findings(
    artifact: Artifact, origin: Origin, opened: Sequence[SetReader], key: Identity | None
) -> Iterable[Finding]:
    if artifact.damaged_at is not None:
        yield Finding("fail", f"it was found damaged: {artifact.damage}; choose another restore point")
    if origin.row is None:
        yield Finding("warn", "its source is described no more; it goes back to where it was captured, without secrets")
    elif origin.row.settings != artifact.settings:
        yield Finding("warn", "the source's settings have changed since; it goes to where they point today")
    source = origin.source()
    if is_own_database(source):
        yield Finding(
            "fail",
            "it is the database of this control plane, which cannot be replaced while it runs; "
            "stop everything and use `manage.py restore --offline`",
        )
        return
    with tempfile.TemporaryDirectory(dir=journals.folder(), prefix=".preview-") as folder:
        restorer = source.restorer(Place(Path(folder), token_of("preview", artifact.name)))
        if opened and key is not None:
            tell_expectations(restorer, opened[0].expectations(artifact.name, key))
        yield from restorer.preflight(artifact.plain_bytes)


def _record(record: BackupRecord) -> Iterable[Finding]:
    if record.state not in RESTORABLE:
        yield Finding("fail", f"{record.name} is {record.state}: only a committed restore point can be restored")


def _stored(record: BackupRecord, names: Sequence[str], opened: list[SetReader]) -> Iterable[Finding]:
    if record.state not in RESTORABLE:
        return
    state = journals.SetState(record.name, record.prefix, record.manifest_sha256, describe_target(record.target))
    reader = SetReader.of(state)
    there = {artifact.name for artifact in reader.manifest.artifacts}
    if missing := sorted(set(names) - there):
        yield Finding("fail", f"the stored set does not hold {', '.join(missing)}")
    else:
        opened.append(reader)
        yield Finding("pass", "the stored set is committed and its manifest is authentic")


def _identity(
    identity: Callable[[], Identity] | None, opened: Sequence[SetReader]
) -> tuple[Identity | None, list[Finding]]:
    if identity is None:
        return None, [Finding("pass", "the proof worker decrypts it, with its drill identity")]
    try:
        key = identity()
    except NoIdentity as error:
        return None, [Finding("fail", f"not possible: no identity. {error}")]
    if opened and not opened[0].opens_with(key):
        return None, [
            Finding(
                "fail",
                "not possible: this identity is none of those that the set was encrypted to; use the recovery key",
            )
        ]
    return key, [Finding("pass", "there is an identity that opens it")]


def _space(parts: Sequence[PartPreview]) -> Iterable[Finding]:
    """Whatever a Restorer keeps in its own place; each Restorer looks at where its live data are."""
    needed = SPACE_FACTOR * sum(part.plain_bytes for part in parts)
    free = shutil.disk_usage(journals.folder()).free
    if free < needed:
        yield Finding(
            "fail",
            f"{free // 2**20} MiB are free in the data directory, {needed // 2**20} MiB are needed (twice what is "
            "restored); free space or restore fewer parts",
        )


def _others(names: Sequence[str], options: Options, restore: RestoreRecord | None) -> list[Finding]:
    """Another restore or a backup at work on the same sources. Of two restores that look at once the older goes on.

    Two that stop services are in each other's way too: the first to end would start what the other has stopped.
    """
    wanted, found = set(names), []
    for other in RestoreRecord.objects.exclude(state__in=(*RESTORE.terminal_states, "queued")):
        if restore is not None and other.pk == restore.pk:
            continue
        first = other.state != "preflight" or restore is None or other.pk < restore.pk
        if first and (both := sorted(wanted & set(other.artifacts))):
            found.append(
                Finding("fail", f"{other.name} is restoring {', '.join(both)} at the moment; wait until it ends")
            )
        if first and options.stops_services and Options.of(other.options).stops_services:
            found.append(Finding("fail", f"{other.name} has stopped services at the moment; wait until it ends"))
    running = BackupRecord.objects.filter(state="running", plan__sources__name__in=names).exclude(trigger="safety")
    for backup in running.distinct():
        both = sorted(wanted & set(backup.only_sources or names))
        if both:
            found.append(
                Finding("fail", f"{backup.name} is reading {', '.join(both)} at the moment; wait for it or cancel it")
            )
    return found


def safety_plan(record: BackupRecord, names: Sequence[str]) -> BackupPlan | None:
    """The plan whose sources include all parts: the record's own if it still does, else any."""
    wanted = set(names)
    plans = [record.plan] if record.plan is not None else []
    plans += BackupPlan.objects.order_by("pk")
    for plan in plans:
        if wanted <= set(plan.sources.filter(enabled=True).values_list("name", flat=True)):
            return plan
    return None


def _safety(record: BackupRecord, names: Sequence[str], options: Options) -> list[Finding]:
    if options.without_safety_backup:
        return [Finding("warn", "no safety backup is made: what is replaced is kept only until the restore is done")]
    if not names or safety_plan(record, names) is not None:
        return []
    return [
        Finding(
            "fail",
            "no plan has all of these parts as enabled sources, so no safety backup can be made; add the sources to a "
            "plan, or choose to go without a safety backup",
        )
    ]


def _services(controls: Mapping[str, ServiceControl], options: Options) -> Iterable[Finding]:
    services = services_to_stop(controls, options)
    if options.stop_services and not services:
        yield Finding("warn", "no service is described that could be stopped")
