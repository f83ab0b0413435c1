"""The steps of a restore, forward. Each may run twice: a worker that dies is followed by one that begins its step anew.

    preflight → safety backup → stop services → restore beside → validate → swap → start services → health → discard

Until ``swap`` nothing of the running system has changed. After ``check_health`` there is no way back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import structlog

from backups.errors import CannotRestore, Damaged, RestoreFailed
from backups.killpoints import step_reached
from backups.services import from_journal, to_journal
from backups.sources.base import Finding
from controlplane.kernel.ports import all_service_controls

from . import health, safety
from .journal import ServiceState
from .parts import remove_work, restorer_of, tell_expectations
from .preview import preview, services_to_stop
from .restoration import Restoration, describe

log = structlog.get_logger(__name__)

SERVICE_SECONDS = 120.0


@dataclass(frozen=True)
class Step:
    """``state``: the row's while it goes on."""

    name: str
    state: str
    run: Callable[[Restoration], None]


def preflight(restoration: Restoration) -> None:
    """CannotRestore, with every reason, where anything speaks against it."""
    journal = restoration.journal
    with restoration.noted("preflight") as entry:
        if restoration.row is not None:
            seen = preview(
                restoration.row.record,
                [part.name for part in journal.parts],
                journal.options,
                restore=restoration.row,
                identity=restoration.identity,
            )
            if seen.refusals:
                raise CannotRestore("; ".join(seen.refusals) + ".")
            entry.detail = "; ".join(f.detail for f in seen.findings if f.status == "warn")
        else:
            restoration.identity()
        _ = restoration.reader
        journal.answering = health.answering()


def safety_backup(restoration: Restoration) -> None:
    with restoration.noted("safety_backup") as entry:
        if restoration.options.without_safety_backup:
            entry.detail = "none was wanted"
            return
        entry.detail = safety.take(restoration)
        step_reached("restore_safety_committed")


def stop_services(restoration: Restoration) -> None:
    """Each is written down before it is stopped, with what starts it again."""
    journal = restoration.journal
    controls = all_service_controls()
    for name in services_to_stop(controls, restoration.options):
        state = next((service for service in journal.services if service.name == name), None)
        if state is None:
            control = controls[name]
            state = ServiceState(name, to_journal(control), control.is_running())
            journal.services.append(state)
        if state.stopped or state.was_running is False:
            continue
        with restoration.noted("stop", name):
            step_reached("restore_service_noted")
            from_journal(state.control).stop(timeout_seconds=SERVICE_SECONDS)
            step_reached("restore_service_stopped")
            state.stopped = True


def prepare(restoration: Restoration) -> None:
    """Restore every part beside what is live."""
    for part in restoration.each("prepare"):
        with restoration.noted("prepare", part.name) as entry:
            restorer, identity = restorer_of(restoration.journal, part), restoration.identity()
            tell_expectations(restorer, restoration.reader.expectations(part.name, identity))
            with closing(restoration.reader.chunks(part.name, identity, restoration.reached(entry, part))) as chunks:
                try:
                    restorer.prepare(chunks)
                finally:
                    part.memory = restorer.memory
                for _ in chunks:  # whatever was left unread: the last byte proves the first
                    pass
            entry.detail = f"{part.plain_bytes} bytes"
            step_reached("restore_prepared")


def validate(restoration: Restoration) -> None:
    """Compare every part with what its manifest expects. RestoreFailed names what differs."""
    for part in restoration.each("validate"):
        with restoration.noted("validate", part.name) as entry:
            restorer = restorer_of(restoration.journal, part)
            expectations = restoration.reader.expectations(part.name, restoration.identity())
            findings = restorer.validate(expectations)
            part.memory = restorer.memory
            demand_all_pass(part.name, findings)
            entry.detail = "; ".join(finding.detail for finding in findings)[:1000]
            step_reached("restore_validated")


def demand_all_pass(name: str, findings: list[Finding]) -> None:
    """Damaged where a comparison failed, and where nothing was compared: silence is no pass."""
    failing = [finding.detail for finding in findings if finding.status == "fail"]
    if failing or not findings:
        raise Damaged(
            f"{name} as restored is not what was saved: {'; '.join(failing) or 'nothing could be compared'}.",
            remedy="Choose another restore point, and drill this one.",
        )


def swap(restoration: Restoration) -> None:
    """Put the restored parts in the place of the live ones, one after the other."""
    for part in restoration.journal.parts:
        if part.swap == "done":
            continue
        restoration.tracker.check()
        part.swap = "begun"
        with restoration.noted("swap", part.name):
            step_reached("restore_swap_noted")
            restorer = restorer_of(restoration.journal, part)
            try:
                restorer.swap()
            finally:
                part.memory = restorer.memory
            step_reached("restore_swapped")
            part.swap = "done"


def start_services(restoration: Restoration) -> None:
    """Start what this restore has stopped, and nothing else."""
    for service in restoration.journal.services:
        if service.was_running is False or service.started:
            continue
        with restoration.noted("start", service.name):
            from_journal(service.control).start(timeout_seconds=SERVICE_SECONDS)
            step_reached("restore_service_started")
            service.started = True


def check_health(restoration: Restoration) -> None:
    """The health score must reach what was asked for, within a minute of the start."""
    least = restoration.options.minimum_score
    with restoration.noted("check_health") as entry:
        patience = restoration.patience_seconds
        score = health.wait_for(
            restoration.journal.answering,
            least,
            patience_seconds=health.PATIENCE_SECONDS if patience is None else patience,
            check=restoration.tracker.check,
        )
        restoration.journal.score = score.value
        entry.detail = f"{score.value} of 100" + (f": {'; '.join(score.reasons)}" if score.reasons else "")
        if not score.suffices(least):
            raise RestoreFailed(
                f"The health score after the start is {score.value}, {least} are needed: {'; '.join(score.reasons)}.",
                remedy="Look at what is unwell; with a lower minimum score the restore would have been kept.",
            )


def discard(restoration: Restoration) -> None:
    """Remove what stood beside. The restore has succeeded: what cannot be removed is only spoken of."""
    for part in restoration.journal.parts:
        if part.discarded:
            continue
        with restoration.noted("discard", part.name) as entry:
            try:
                restorer_of(restoration.journal, part).discard()
                part.discarded = True
            except Exception as error:  # noqa: BLE001  (the restored data are live and well)
                entry.detail = f"left behind: {describe(error)}"
                log.warning("restore_left_behind", restore=restoration.journal.name, part=part.name)
            step_reached("restore_discarded")
    remove_work(restoration.journal)


STEPS: tuple[Step, ...] = (
    Step("preflight", "preflight", preflight),
    Step("safety_backup", "safety_backup", safety_backup),
    Step("stop_services", "stopping", stop_services),
    Step("prepare", "restoring", prepare),
    Step("validate", "validating", validate),
    Step("swap", "swapping", swap),
    Step("start_services", "starting", start_services),
    Step("check_health", "checking", check_health),
    Step("discard", "checking", discard),
)
#: From here on the restored data are what counts, whatever happens.
NO_WAY_BACK_AFTER = "check_health"

#: Where a fault test kills the worker: around each step, and within those that touch something.
KILL_POINTS: tuple[str, ...] = (
    "restore_begun",
    *(f"restore_{step.name}{end}" for step in STEPS for end in ("", "_done")),
    "restore_safety_committed",
    "restore_service_noted",
    "restore_service_stopped",
    "restore_prepared",
    "restore_validated",
    "restore_swap_noted",
    "restore_swapped",
    "restore_service_started",
    "restore_discarded",
    "restore_ended",
)
