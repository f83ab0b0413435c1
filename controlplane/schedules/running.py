"""Run a schedule's task now, with the row's own arguments and queue; and the permission to do so."""

from __future__ import annotations

import json
from typing import Any

import structlog
from celery import current_app
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from controlplane.kernel.errors import Refused, Unavailable

from .bookkeeping import NAME_HEADER, TRIGGERED_BY_HEADER
from .rows import headers_of

log = structlog.get_logger(__name__)

RUN_CODENAME = "run_periodictask"
_TIMEOUT_SECONDS = 3.0
_CORRECT = "Correct them under Advanced."
RUN_PERMISSION = f"django_celery_beat.{RUN_CODENAME}"


def ensure_permissions() -> Permission:
    """Make the permission “Can run periodic task now” (bootstrap calls this). Idempotent."""
    content_type = ContentType.objects.get_for_model(PeriodicTask)
    return Permission.objects.get_or_create(
        content_type=content_type, codename=RUN_CODENAME, defaults={"name": "Can run periodic task now"}
    )[0]


def run_now(task: PeriodicTask, *, actor: str) -> str:
    """Send the task's message; returns the id of the task. The schedule itself is not touched.

    Raises :class:`Refused` when no worker code knows the task or its arguments are not JSON, and
    :class:`Unavailable` when the broker does not take the message.
    """
    current_app.loader.import_default_modules()
    function: Any = current_app.tasks.get(task.task)
    if function is None:
        raise Refused(
            f"No code of this installation is named {task.task}.",
            remedy="Choose another job, or install what brings it.",
        )
    args, kwargs = _arguments(task)
    headers: dict[str, Any] = {**headers_of(task), NAME_HEADER: task.name, TRIGGERED_BY_HEADER: actor}
    options = {
        name: value
        for name in ("queue", "exchange", "routing_key", "priority")
        if (value := getattr(task, name)) is not None
    }
    # A connection of its own: the shared one may wait for ever on a broker that is frozen.
    deadlines = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    own: Any = current_app.connection_for_write(transport_options=deadlines)
    with own as connection:
        try:
            sent = function.apply_async(args, kwargs, headers=headers, connection=connection, retry=False, **options)
        except TypeError as problem:  # Celery compares the arguments with the function's own before it sends
            raise Refused(f"The stored arguments do not fit the job: {problem}.", remedy=_CORRECT) from None
        except (OperationalError, *connection.connection_errors, *connection.channel_errors) as problem:
            raise Unavailable(
                "The broker did not take the task; nothing was started.", remedy="See that Redis runs, then try again."
            ) from problem
    log.info("schedule_run_by_hand", schedule=task.name, task_id=sent.id, actor=actor)
    return str(sent.id)


def _arguments(task: PeriodicTask) -> tuple[list[Any], dict[str, Any]]:
    try:
        args, kwargs = json.loads(task.args or "[]"), json.loads(task.kwargs or "{}")
    except ValueError:
        args = kwargs = None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise Refused("The stored arguments are no JSON list and object.", remedy=_CORRECT)
    return args, kwargs
