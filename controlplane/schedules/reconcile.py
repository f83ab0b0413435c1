"""Bring the schedules that the code declares into beat's tables, and keep what operators changed.

The task, its arguments and its description always follow the code: they name functions. When it runs,
whether it runs, on which queue and for how long a message is good belong to the operator once he has
edited them, except on a schedule that is declared ``editable=False``, which is put back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import structlog
from django.db import transaction
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from controlplane.kernel.cron import parse
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.registry import ScheduleSpec, schedules

from . import rows

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ReconcileResult:
    """Names by what happened to them. ``kept`` holds those that an operator edited, and names taken by him."""

    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.created or self.updated or self.disabled)


def reconcile_schedules() -> ReconcileResult:
    """Reconcile all of them in one transaction. Doing it twice is the same as doing it once.

    Raises :class:`ConfigurationError` for a spec with no schedule or two.
    """
    found: dict[str, list[str]] = {"created": [], "updated": [], "disabled": [], "kept": [], "same": []}
    with transaction.atomic():
        present = {
            task.name: task for task in PeriodicTask.objects.select_related("interval", "crontab").order_by("name")
        }
        for spec in schedules:
            _check(spec)
            found[_reconcile_one(spec, present.pop(spec.name, None))].append(spec.name)
        for task in present.values():
            if _retire(task):
                found["disabled"].append(task.name)
        if found["created"] or found["updated"] or found["disabled"]:
            PeriodicTasks.update_changed()
    result = ReconcileResult(
        tuple(found["created"]), tuple(found["updated"]), tuple(found["disabled"]), tuple(found["kept"])
    )
    if result.changed:
        log.info(
            "schedules_reconciled", created=result.created, updated=result.updated, disabled=result.disabled,
            kept=result.kept,
        )  # fmt: skip
    return result


def _check(spec: ScheduleSpec) -> None:
    if bool(spec.every_seconds) == bool(spec.cron):
        raise ConfigurationError(
            f"The schedule {spec.name!r} needs exactly one of every_seconds and cron.",
            remedy="Correct its ScheduleSpec.",
        )


def _reconcile_one(spec: ScheduleSpec, task: PeriodicTask | None) -> str:
    if task is None:
        task = PeriodicTask(name=spec.name)
        _put(spec, task)
        task.save()
        return "created"
    headers = rows.headers_of(task)
    if headers.get(rows.ORIGIN) != "code" and spec.editable and task.task != spec.task:
        log.warning("schedule_name_taken", schedule=spec.name, task=task.task)
        return "kept"
    before = _state(task)
    if headers.get(rows.RETIRED):
        task.enabled = True  # the code has it again, and it was the code that had disabled it
        del headers[rows.RETIRED]
        task.headers = json.dumps(headers, sort_keys=True)
    edited = spec.editable and rows.row_print(task) not in (headers.get(rows.PRINT), rows.spec_print(spec))
    if edited:
        _put_what_the_code_owns(spec, task, headers.get(rows.PRINT) or rows.spec_print(spec))
    else:
        _put(spec, task)
    if _state(task) != before:
        task.save()
        return "updated"
    return "kept" if edited else "same"


def _put(spec: ScheduleSpec, task: PeriodicTask) -> None:
    """Make the row what the spec says, without saving it."""
    print_before, wanted = rows.row_print(task), rows.spec_print(spec)
    if print_before != wanted:
        task.solar = task.clocked = None
        task.interval = rows.interval_row(*rows.largest_unit(spec.every_seconds)) if spec.every_seconds else None
        task.crontab = rows.crontab_row(parse(spec.cron), spec.timezone) if spec.cron else None
        task.enabled, task.queue, task.expire_seconds, task.expires = True, spec.queue, spec.expires_seconds, None
        # A new schedule counts from now: with the old last run it could be due at once.
        task.last_run_at = None
    if not spec.editable:
        task.start_time, task.one_off, task.expires, task.priority = None, False, None, None
        task.exchange = task.routing_key = None
    _put_what_the_code_owns(spec, task, wanted)


def _put_what_the_code_owns(spec: ScheduleSpec, task: PeriodicTask, row_print: str) -> None:
    headers = {**rows.headers_of(task), rows.ORIGIN: "code", rows.PRINT: row_print}
    task.task, task.args = spec.task, "[]"
    task.kwargs = json.dumps(spec.kwargs, sort_keys=True)
    task.description = spec.description
    task.headers = json.dumps(headers, sort_keys=True)


def _state(task: PeriodicTask) -> tuple[object, ...]:
    return tuple(
        getattr(task, field.attname)
        for field in task._meta.concrete_fields
        if field.name not in ("date_changed", "total_run_count", "last_run_at")
    )


def _retire(task: PeriodicTask) -> bool:
    """Disable a row whose spec is gone from the code; an operator who enables it again is believed."""
    headers = rows.headers_of(task)
    if headers.get(rows.ORIGIN) != "code" or headers.get(rows.RETIRED) or not task.enabled:
        return False
    headers[rows.RETIRED] = True
    task.headers = json.dumps(headers, sort_keys=True)
    task.enabled = False
    task.save()
    return True
