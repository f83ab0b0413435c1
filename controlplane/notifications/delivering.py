"""Carry due deliveries out: each under a lease, each attempt logged, each failure given a next time."""

from __future__ import annotations

import os
import random
import socket
import time
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from controlplane.kernel import clock, leases, transitions
from controlplane.kernel.errors import LeaseLost, Refused, ZantaraError

from . import api, backoff, sending
from .machine import DELIVERY
from .models import Channel, Delivery, DeliveryAttempt, DeliveryEvent, Message, Severity

log = structlog.get_logger(__name__)

LEASE_SECONDS = 60
#: One task's share: the next one goes on, so that a slow service keeps no worker for long.
MOST_AT_ONCE = 20
#: Messages older than this go, with their log; those that are still on their way stay.
KEPT_DAYS = 90


def deliver_due(now: datetime | None = None) -> tuple[int, int]:
    """Try what is due; how many were delivered and how many failed."""
    now = now or clock.now()
    owner = f"{socket.gethostname()}:{os.getpid()}"
    pending = leases.due(Delivery.objects.filter(state="pending", due_at__lte=now), now).order_by("due_at")
    sent = failed = 0
    for pk in list(pending.values_list("pk", flat=True)[:MOST_AT_ONCE]):
        done = deliver(pk, owner=owner)
        sent += done is True
        failed += done is False
    return sent, failed


def deliver(pk: int, *, owner: str) -> bool | None:
    """One attempt; None where somebody else has it or it is no longer pending."""
    now = clock.now()
    lease = leases.acquire(
        Delivery.objects.filter(state="pending", due_at__lte=now), pk, owner=owner, ttl_seconds=LEASE_SECONDS, now=now
    )
    if lease is None:
        return None
    delivery = Delivery.objects.select_related("message", "channel").get(pk=pk)
    begun = time.perf_counter()
    error = _attempt(delivery)
    try:
        _note(delivery, lease, error, time.perf_counter() - begun)
    except LeaseLost:
        log.warning("delivery_lease_lost", delivery=pk)  # its new owner repeats it; the key tells the receiver
        return None
    return not error


def _attempt(delivery: Delivery) -> str:
    """Empty when it was taken, else why not."""
    try:
        send(delivery.channel, delivery.message)
    except ZantaraError as problem:
        return str(problem)
    except Exception as problem:
        log.exception("delivery_crashed", delivery=delivery.pk)
        return f"{type(problem).__name__} while sending; see the log."
    return ""


def send(channel: Channel, message: Message) -> None:
    """One message to one channel, now. Raises Unavailable or Refused."""
    letter = sending.Letter(
        message.key, message.kind, message.severity, message.title, message.body, message.link, message.created_at
    )
    if channel.kind == Channel.Kind.WEBHOOK:
        sending.send_webhook(channel.address, channel.secret, letter, now=clock.now())
    else:
        sending.send_apprise(channel.address, letter)


def _note(delivery: Delivery, lease: leases.Lease, error: str, seconds: float) -> None:
    now, attempts = clock.now(), delivery.attempts + 1
    with transaction.atomic():
        DeliveryAttempt(delivery=delivery, at=now, delivered=not error, error=error, seconds=seconds).save()
        if not error:
            _move(delivery, "sent", lease, attempts=attempts, sent_at=now, last_error="")
            return
        due_at = backoff.next_attempt_at(attempts, now, random.random())  # noqa: S311  (dice, no secret)
        if due_at is None:
            _move(delivery, "given_up", lease, attempts=attempts, last_error=error)
            return
        lease.guarded_update(attempts=attempts, due_at=due_at, last_error=error)
        lease.release()
    log.warning("delivery_failed", delivery=delivery.pk, channel=delivery.channel.name, attempts=attempts)


def _move(delivery: Delivery, to: str, lease: leases.Lease, **changes: object) -> None:
    transitions.advance(
        delivery,
        to,
        machine=DELIVERY,
        event=DeliveryEvent,
        reason=str(changes.get("last_error", "")),
        lease=lease,
        changes={**changes, **leases.RELEASED},
    )


def retry(delivery: Delivery, *, actor: str) -> None:
    """Try a delivery that was given up again, from the beginning. Raises Refused for any other."""
    from . import tasks

    if delivery.state != "given_up":
        raise Refused("Only a delivery that was given up can be tried again.")
    transitions.advance(
        delivery, "pending", machine=DELIVERY, event=DeliveryEvent, reason="tried again", actor=actor,
        changes={"attempts": 0, "due_at": clock.now()}, then=tasks.enqueue,
    )  # fmt: skip


def send_test(channel: Channel, *, actor: str) -> None:
    """A message to this channel alone, now, past the outbox. Raises what went wrong."""
    now = clock.now()
    letter = Message(
        key=f"test:{channel.pk}:{now.timestamp():.3f}",
        kind=api.TEST.name,
        severity=Severity.INFO,
        title="Test message of the Zantara control plane",
        body=f"{actor} pressed the test button of the channel {channel.name}.",
        created_at=now,
    )
    send(channel, letter)


def forget_old(now: datetime | None = None) -> int:
    """Delete messages older than ``KEPT_DAYS`` that are not on their way; how many."""
    before = (now or clock.now()) - timedelta(days=KEPT_DAYS)
    old = Message.objects.filter(created_at__lt=before).exclude(deliveries__state="pending")
    return old.delete()[0]
