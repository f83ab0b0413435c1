"""The tick that delivers what is due."""

from __future__ import annotations

import structlog
from celery import shared_task
from kombu.exceptions import OperationalError

from controlplane.kernel.registry import ScheduleSpec

log = structlog.get_logger(__name__)

EVERY_SECONDS = 15

SCHEDULE = ScheduleSpec(
    name="notifications.deliver",
    task="controlplane.notifications.deliver_due",
    label="Deliver messages",
    description="Sends what is due to each channel, and tries again what failed.",
    every_seconds=EVERY_SECONDS,
    queue="engine",
    expires_seconds=14,
    editable=False,
)
FORGET = ScheduleSpec(
    name="notifications.forget",
    task="controlplane.notifications.forget_old",
    label="Forget old messages",
    description="Deletes messages and their delivery log after 90 days.",
    cron="40 4 * * *",
    queue="work",
)


@shared_task(name=SCHEDULE.task, ignore_result=True, soft_time_limit=200, time_limit=240, acks_late=False)
def deliver_due() -> str:
    from .delivering import deliver_due

    sent, failed = deliver_due()
    return f"{sent} delivered, {failed} failed"


@shared_task(name=FORGET.task, ignore_result=True)
def forget_old() -> str:
    from .delivering import forget_old

    return f"{forget_old()} rows deleted"


def enqueue() -> None:
    """Deliver soon. A broker that is away is no reason to fail: the tick finds the row within 15 s."""
    try:
        deliver_due.apply_async(queue=SCHEDULE.queue, expires=EVERY_SECONDS, retry=False)
    except OperationalError:
        log.warning("delivery_not_enqueued")
