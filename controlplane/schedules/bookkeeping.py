"""Notes how each run of a schedule went. Loaded by workers through ``controlplane.schedules.tasks``.

Celery's signals are the only place that sees every task; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

from celery.signals import task_postrun, task_prerun

from controlplane.kernel import clock

from . import store

#: Put on the message by beat (django-celery-beat's ModelEntry) and by a run by hand.
NAME_HEADER = "periodic_task_name"
TRIGGERED_BY_HEADER = "zantara_triggered_by"
_STARTED = "zantara_started_monotonic"


def _header(request: Any, name: str) -> str:
    """A header of the message: Celery puts it on the request itself, or under ``headers`` when eager."""
    value = getattr(request, name, None) or (getattr(request, "headers", None) or {}).get(name)
    return value if isinstance(value, str) else ""


@task_prerun.connect(dispatch_uid="zantara-schedule-start")
def note_start(task_id: str, task: Any, **_: Any) -> None:
    name = _header(task.request, NAME_HEADER)
    if not name:
        return
    setattr(task.request, _STARTED, clock.monotonic())
    store.note_start(name, task_id=task_id, at=clock.now(), triggered_by=_header(task.request, TRIGGERED_BY_HEADER))


@task_postrun.connect(dispatch_uid="zantara-schedule-end")
def note_end(task_id: str, task: Any, retval: Any = None, state: str | None = None, **_: Any) -> None:
    name = _header(task.request, NAME_HEADER)
    started = getattr(task.request, _STARTED, None)
    if not name or started is None:
        return
    failed = state == "FAILURE"
    error = type(retval).__name__ if failed and isinstance(retval, BaseException) else ""
    store.note_end(
        name, state="failure" if failed else "success", duration_seconds=clock.monotonic() - started, error=error
    )
