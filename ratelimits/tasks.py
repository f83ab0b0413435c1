"""Keeping Redis equal to the database."""

from __future__ import annotations

from celery import shared_task

from controlplane.kernel.registry import ScheduleSpec

from . import policies
from .shedding import rows as shedding

SCHEDULE = ScheduleSpec(
    name="ratelimits.reconcile",
    task="ratelimits.tasks.reconcile_policies",
    label="Publish the limits",
    description="Puts in force what was saved while Redis was away or what Redis lost: profiles, load shedding.",
    every_seconds=10,
    queue="engine",
    expires_seconds=9,
    editable=False,
)


@shared_task(name=SCHEDULE.task, ignore_result=True, soft_time_limit=8, time_limit=9)
def reconcile_policies() -> str:
    """Make what is in force equal to the database. Redis away is a normal answer: the next run comes in 10 s."""
    shedding.reconcile()
    return policies.reconcile().status
