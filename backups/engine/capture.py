"""Reading the sources of one attempt into the store, and the manifest of what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError

from backups.errors import Cancelled, CaptureFailed, Damaged, StorageRefused, StorageUnavailable
from backups.manifest import Manifest, ManifestArtifact
from backups.models import Artifact, BackupPlan, BackupRecord, BackupSource
from backups.sources.base import Captured, Source, kinds
from backups.storage.base import Storage
from backups.stream import put_expectations, store_stream
from controlplane import __version__
from controlplane.kernel import clock
from controlplane.kernel.errors import LeaseLost, Unavailable, ZantaraError
from controlplane.kernel.local_secrets import data_dir

from .fence import Fence
from .progress import Progress
from .steps import step_reached

log = structlog.get_logger(__name__)

#: After one of these the other sources need not be tried: it is the run that ends, or the store that fails.
_ENDS_ALL = (LeaseLost, Cancelled, StorageUnavailable, StorageRefused, Damaged)


#: What may be over in a minute: whoever did not answer, our own database included.
PASSING = (Unavailable, OperationalError, InterfaceError)


@dataclass
class Attempt:
    """What the parts of one attempt share."""

    record: BackupRecord
    plan: BackupPlan
    sources: list[BackupSource]
    storage: Storage
    fence: Fence
    progress: Progress
    recipients: tuple[str, ...]


class SourcesFailed(ZantaraError):
    """One or more sources could not be captured. ``passing``: all of them merely did not answer."""

    def __init__(self, failures: Mapping[str, BaseException]) -> None:
        super().__init__(" ".join(f"{name}: {say(error)}" for name, error in failures.items()))
        self.passing = all(isinstance(error, PASSING) for error in failures.values())


def say(error: BaseException) -> str:
    """The error for the record: its own words, or for a defect its class and text."""
    return str(error) if isinstance(error, ZantaraError) else f"{type(error).__name__}: {error}"


def scratch_root() -> Path:
    """Private directories of attempts, one per set id; those of attempts that are over are removed."""
    return data_dir() / "scratch" / "backups"


def capture_all(attempt: Attempt) -> list[ManifestArtifact]:
    """Every source, one after the other. One that fails does not keep the others from showing whether they do, too.

    Raises SourcesFailed, or what ended the run or its store.
    """
    artifacts: list[ManifestArtifact] = []
    failures: dict[str, BaseException] = {}
    for position, source in enumerate(attempt.sources, start=1):
        try:
            artifacts.append(_capture(attempt, source, position))
        except _ENDS_ALL:
            raise
        except Exception as error:
            if not isinstance(error, ZantaraError):
                log.warning("source_broke", backup=attempt.record.name, source=source.name, exc_info=True)
            failures[source.name] = error
    if failures:
        raise SourcesFailed(failures)
    return artifacts


def _capture(attempt: Attempt, row: BackupSource, position: int) -> ManifestArtifact:
    kind = kinds.get(row.kind)
    settings = kind.clean(row.settings, row.secrets)
    source = kind(row.name, settings, row.secrets)
    folder, progress, begun = f"{attempt.record.prefix}/{row.name}", attempt.progress, clock.now()
    progress.begin(row.name, position, _expected_bytes(source, attempt.record))
    with ExitStack() as stack:
        manager = source.capture(now=begun, scratch=stack.enter_context(_scratch(attempt.record.set_id, row.name)))
        with progress.opening(manager):
            capture = stack.enter_context(manager)
        step_reached("capture_opened")
        with progress.streaming(capture):
            stored, captured = store_stream(
                progress.chunks(capture),
                storage=attempt.storage,
                folder=folder,
                recipients=attempt.recipients,
                level=attempt.plan.compression_level if attempt.plan.compress else None,
                finish=capture.finish,
                progress=progress.moved,
                stop=progress.check,
                interrupt=progress.interrupt,
            )
    if not stored.plain_bytes:
        raise CaptureFailed("It gave not a single byte.", remedy="See that the source holds what it should.")
    progress.done_bytes += stored.plain_bytes
    step_reached("source_stored")
    return ManifestArtifact.of(
        stored,
        name=row.name,
        kind=row.kind,
        position=position,
        settings=settings,
        captured_from_at=begun,
        captured_to_at=clock.now(),
        tools=dict(captured.tools),
        summary=dict(captured.summary),
        warnings=tuple(captured.warnings),
        expectations=_expectations(attempt, folder, captured),
    )


def _expectations(attempt: Attempt, folder: str, captured: Captured) -> dict[str, Any]:
    return dict(put_expectations(attempt.storage, folder, captured.expectations, attempt.recipients))


def _expected_bytes(source: Source, record: BackupRecord) -> int | None:
    """What the kind says, else what it was the last time; only for the progress bar, so a failure is none."""
    try:
        known = source.expected_bytes()
    except (ZantaraError, OSError):
        known = None
    if known is not None:
        return known
    last = Artifact.objects.filter(
        name=source.name, kind=source.kind, record__plan_name=record.plan_name, record__committed_at__isnull=False
    )
    return last.order_by("-record__committed_at").values_list("plain_bytes", flat=True).first()


@contextmanager
def _scratch(set_id: UUID | None, name: str) -> Iterator[Path]:
    """A directory for this source alone; ``recover`` finds it by the set's id should this process be killed."""
    parent = scratch_root() / str(set_id)
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=parent) as path:
        yield Path(path)


def make_manifest(attempt: Attempt, artifacts: list[ManifestArtifact], now: datetime) -> Manifest:
    """What the set will be known by; chained to the one that was committed before it."""
    record = attempt.record
    records = BackupRecord.objects.filter(plan_name=record.plan_name, committed_at__isnull=False)
    before = records.order_by("-committed_at").values_list("manifest_sha256", flat=True).first()
    return Manifest(
        set_id=str(record.set_id),
        name=record.name,
        plan=record.plan_name,
        trigger=record.trigger,
        requested_by=record.requested_by,
        scheduled_for=record.scheduled_for,
        started_at=record.started_at or now,
        committed_at=now,
        producer=f"zantara {__version__}",
        recipients=attempt.recipients,
        previous_manifest_sha256=before or "",
        only_sources=tuple(record.only_sources),
        warnings=tuple(f"{artifact.name}: {text}" for artifact in artifacts for text in artifact.warnings),
        artifacts=tuple(artifacts),
    )
