"""The one task that writes samples."""

from __future__ import annotations

from celery import shared_task

from controlplane.kernel.registry import ScheduleSpec

from . import taking

SCHEDULE = ScheduleSpec(
    name="samples.take",
    task="controlplane.samples.take_samples",
    label="Take samples",
    description="Asks every service for its metrics and writes the row that the charts draw.",
    every_seconds=15,
    queue="engine",
    expires_seconds=14,
    editable=False,
)


@shared_task(name=SCHEDULE.task, ignore_result=True, soft_time_limit=12, time_limit=14, acks_late=False)
def take_samples() -> str:
    """Not acknowledged late: a tick that is delivered again would be a tick that is past."""
    tick = taking.take_samples()
    return f"{len(tick.up)} up, {len(tick.down)} down, {tick.rolled_up} rolled up, {tick.deleted} deleted"
