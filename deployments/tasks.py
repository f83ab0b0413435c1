"""The tasks of deployments. A message holds a number only; whoever gets it twice finds the service taken or done.

Ticks are acknowledged when they begin: the next one is two seconds away, and a lease, not a message, brings back
what a killed worker left.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from celery import shared_task
from celery.app.task import Task

from controlplane.kernel.registry import ScheduleSpec

from .engine import sending
from .engine import tick as engine

_TICK: dict[str, Any] = {"ignore_result": True, "acks_late": False, "soft_time_limit": 20, "time_limit": 30}

TICK = ScheduleSpec(
    name="deployments.tick",
    task="deployments.tick",
    label="Move deployments on",
    description="Looks after every service: its deployment, its instances, and what the edge does.",
    every_seconds=2,
    queue="engine",
    expires_seconds=4,
    editable=False,
)
SCHEDULES = (TICK,)


@shared_task(name=TICK.task, **_TICK)
def tick() -> str:
    return f"{engine.tick()} due"


@shared_task(name=sending.TICK_TASK, bind=True, **_TICK)
def tick_service(self: Task[Any, Any], pk: int) -> str:
    return engine.tick_service(pk, owner=f"{socket.gethostname()}:{os.getpid()}:{self.request.id or 'direct'}")


@shared_task(name=sending.CLEAR_TASK, ignore_result=True, acks_late=False, soft_time_limit=1800, time_limit=1900)
def clear_checkouts(pk: int) -> None:
    """Delete what was set aside of a service: checkouts that nobody needs, logs of old deployments."""
    from .models import Service
    from .pipeline import prune

    service = Service.objects.filter(pk=pk).first()
    if service is not None:
        prune.clear(service)
