"""The way back: every part as it was, services started again, nothing left beside. Each step may run twice.

A part is first put back by its Restorer's own memory; where that fails, its safety backup is restored. Only where that
fails too the restore ends as ``failed``, and the message says what stands where.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import structlog

from backups.errors import RestoreFailed
from backups.killpoints import step_reached
from backups.services import from_journal

from .journal import PartState
from .parts import remove_work, restorer_of, tell_expectations
from .reading import SetReader
from .restoration import Restoration, describe
from .steps import SERVICE_SECONDS, demand_all_pass

log = structlog.get_logger(__name__)

#: A step of the way back that took so many workers down is left, so that the services get started.
MOST_TRIES = 5


@dataclass(frozen=True)
class BackStep:
    name: str
    run: Callable[[Restoration], None]


def stop_again(restoration: Restoration) -> None:
    """Services that were started on the restored data must not write while these are taken away."""
    for service in restoration.journal.services:
        if not service.started:
            continue
        try:
            with restoration.noted("stop", service.name):
                from_journal(service.control).stop(timeout_seconds=SERVICE_SECONDS)
        except Exception as error:  # noqa: BLE001  (a service that cannot be stopped does not keep the data away)
            log.warning("service_not_stopped", service=service.name, error=describe(error))
        service.started = False
        restoration.save()


def undo(restoration: Restoration) -> None:
    """Put back every part that was swapped or half swapped, the last one first."""
    for part in reversed(restoration.journal.parts):
        if part.swap not in ("begun", "done"):
            continue
        try:
            with restoration.noted("undo", part.name):
                step_reached("restore_undo_noted")
                restorer = restorer_of(restoration.journal, part)
                try:
                    restorer.undo()
                finally:
                    part.memory = restorer.memory
                step_reached("restore_undone")
                part.swap = "undone"
        except Exception as error:  # noqa: BLE001  (then the safety backup is what is left)
            part.left_behind = f"undo: {describe(error)}"
            restoration.save()
            _from_safety(restoration, part)


def _from_safety(restoration: Restoration, part: PartState) -> None:
    """Restore the part from the safety backup. What the first Restorer kept beside is not touched any more."""
    try:
        with restoration.noted("undo_from_safety_backup", part.name) as entry:
            safety = restoration.journal.safety
            if safety is None:
                raise RestoreFailed("There is no safety backup.", remedy="Put the part back by hand.")
            reader, identity = SetReader.of(safety), restoration.identity()
            expectations = reader.expectations(part.name, identity)
            restorer = restorer_of(restoration.journal, part, fallback=True)
            tell_expectations(restorer, expectations)
            try:
                with closing(reader.chunks(part.name, identity, lambda _: None)) as chunks:
                    restorer.prepare(chunks)
                demand_all_pass(part.name, restorer.validate(expectations))
                restorer.swap()
            finally:
                part.fallback_memory = restorer.memory
            part.swap = "from_safety"
            entry.detail = f"from {safety.record_name}"
    except Exception as error:  # noqa: BLE001  (whatever it is, services are started and people told)
        part.left_behind += f"; safety backup: {describe(error)}"
        restoration.save()


def discard(restoration: Restoration) -> None:
    """Remove what stood beside, but of parts that could not be put back: there it may be all that is left."""
    whole = True
    for part in restoration.journal.parts:
        if part.swap in ("begun", "done"):
            whole = False
            continue
        if part.discarded:
            continue
        try:
            with restoration.noted("discard", part.name):
                if part.swap == "from_safety":
                    restorer_of(restoration.journal, part, fallback=True).discard()
                restorer_of(restoration.journal, part).discard()
                part.discarded = True
                step_reached("restore_back_discarded")
        except Exception as error:  # noqa: BLE001  (leftovers never keep services from being started)
            log.warning("restore_left_behind", restore=restoration.journal.name, part=part.name, error=describe(error))
    if whole:
        remove_work(restoration.journal)


def restart_services(restoration: Restoration) -> None:
    """Start every service that was stopped; each gets its chance, whatever becomes of the others."""
    for service in restoration.journal.services:
        if service.was_running is False or service.started:
            continue
        try:
            with restoration.noted("start", service.name):
                from_journal(service.control).start(timeout_seconds=SERVICE_SECONDS)
                step_reached("restore_service_restarted")
                service.started = True
        except Exception as error:  # noqa: BLE001  (people are told which one)
            log.error("service_not_started", service=service.name, error=describe(error))
            restoration.save()


BACK_STEPS: tuple[BackStep, ...] = (
    BackStep("stop_again", stop_again),
    BackStep("undo", undo),
    BackStep("discard_undone", discard),
    BackStep("restart_services", restart_services),
)

#: Where a fault test kills the worker on the way back.
BACK_KILL_POINTS: tuple[str, ...] = (
    "restore_back_begun",
    *(f"restore_back_{step.name}{end}" for step in BACK_STEPS for end in ("", "_done")),
    "restore_undo_noted",
    "restore_undone",
    "restore_back_discarded",
    "restore_service_restarted",
    "restore_back_ended",
)


def what_is_amiss(restoration: Restoration) -> str:
    """Empty where everything is as before; else what stands where, for the person who has to go on."""
    journal, lines = restoration.journal, []
    for part in journal.parts:
        if part.swap in ("begun", "done"):
            where = journal.work_folder() / f"{part.position:02d}-{part.name}"
            safety = f" The safety backup {journal.safety.record_name} holds it." if journal.safety else ""
            lines.append(
                f"{part.name} could not be put back ({part.left_behind}). What stood beside is kept (its names hold "
                f"{part.token}; {where}; see {journal.path}).{safety}"
            )
    for service in journal.services:
        if service.was_running is not False and not service.started:
            lines.append(f"{service.name} could not be started; start it by hand.")
    return " ".join(lines)
