"""What Celery does, as numbers: how long the queues are and how old their oldest task, how tasks went.

Queues are looked at when somebody asks. A task's time and failures are counted where it ran: the workers
share the control plane's folder of metrics, so both are in its ``/metrics``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from celery.signals import before_task_publish, task_failure, task_postrun, task_prerun

from controlplane.kernel import clock
from controlplane.monitoring import registry
from controlplane.monitoring.registry import Reading
from controlplane.schedules import heartbeat, store

QUEUES = ("engine", "work", "proof")
#: On every message: when it was put on its queue, in seconds since 1970. A retry is a new message; one that is
#: delivered again, because its worker was lost, keeps the time of its first.
ENQUEUED_AT_HEADER = "zantara_enqueued_at"
#: Kombu keeps one list per step of priority; it pushes on the left and takes from the right.
_STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
_STARTED = "zantara_work_started"

_durations = registry.histogram("zantara_celery_task_duration_seconds")
_failures = registry.counter("zantara_celery_task_failures_total")


@dataclass(frozen=True)
class QueueState:
    """Tasks that no worker has taken yet. ``oldest_seconds`` is None where there is none, or it has no time."""

    name: str
    length: int
    oldest_seconds: float | None


def queue_states(client: redis.Redis | None = None, queues: Sequence[str] = QUEUES) -> list[QueueState]:
    """All queues in one round trip; empty where Redis does not answer."""
    try:
        with (client or store.client()).pipeline(transaction=False) as pipe:
            for queue in queues:
                for step in _STEPS:
                    pipe.llen(queue + step)
                    pipe.lindex(queue + step, -1)
            answers = pipe.execute()
    except (redis.RedisError, OSError):
        return []
    now, width = clock.now().timestamp(), 2 * len(_STEPS)
    states = []
    for number, queue in enumerate(queues):
        part = answers[number * width : (number + 1) * width]
        ages = [age for raw in part[1::2] if (age := _age(raw, now)) is not None]
        states.append(QueueState(queue, sum(part[::2]), max(ages, default=None)))
    return states


def _age(message: Any, now: float) -> float | None:
    if message is None:
        return None
    try:
        return max(0.0, now - float(json.loads(message)["headers"][ENQUEUED_AT_HEADER]))
    except (ValueError, KeyError, TypeError):
        return None  # sent by something that does not run our code


def readings() -> Iterator[Reading]:
    """The gauges of a scrape. What cannot be learned is absent: a 0 would say that all is well."""
    for state in queue_states():
        yield Reading("zantara_celery_queue_length", state.length, (state.name,))
        if state.length == 0 or state.oldest_seconds is not None:
            yield Reading("zantara_celery_queue_oldest_seconds", state.oldest_seconds or 0.0, (state.name,))
    at = heartbeat.last_heartbeat()
    if at is not None:
        yield Reading("zantara_beat_heartbeat_age_seconds", max(0.0, (clock.now() - at).total_seconds()))


def register() -> None:
    """Called from ``ControlPlaneConfig.ready()``; importing this module connects the signals."""
    registry.collectors.add("celery", readings)


@before_task_publish.connect(dispatch_uid="zantara-work-enqueued")
def note_enqueued(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None:
        headers[ENQUEUED_AT_HEADER] = clock.now().timestamp()


@task_prerun.connect(dispatch_uid="zantara-work-start")
def note_start(task: Any, **_: Any) -> None:
    setattr(task.request, _STARTED, clock.monotonic())


@task_postrun.connect(dispatch_uid="zantara-work-end")
def note_end(task: Any, **_: Any) -> None:
    started = getattr(task.request, _STARTED, None)
    if started is not None:
        _durations.observe((task.name,), clock.monotonic() - started)


@task_failure.connect(dispatch_uid="zantara-work-failure")
def note_failure(sender: Any = None, **_: Any) -> None:
    """Also sent by the worker's main process for a task that was killed or ran out of time."""
    _failures.add((sender.name,))
