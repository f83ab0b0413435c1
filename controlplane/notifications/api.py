"""What anything in the house calls to tell people something. The rest of this package is how it gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import structlog
from django.db import IntegrityError, transaction

from controlplane.kernel import clock
from controlplane.kernel.logs import redact_text
from controlplane.kernel.registry import Registry

log = structlog.get_logger(__name__)

SeverityName = Literal["info", "warning", "error"]
_SEVERITIES: dict[SeverityName, int] = {"info": 10, "warning": 20, "error": 30}
MOST_TITLE, MOST_BODY = 200, 4000


@dataclass(frozen=True)
class Kind:
    """A kind of message, for the channels' choice of what they want."""

    name: str
    label: str
    description: str = ""


kinds: Registry[Kind] = Registry("kind of message")
#: What the test button sends.
TEST = kinds.add("test", Kind("test", "Test message", "Sent by the button of a channel."))


def notify(
    kind: str, *, key: str, title: str, body: str = "", severity: SeverityName = "error", link: str = ""
) -> bool:
    """Write one message for every channel that wants it, in the caller's transaction; True if it is new.

    ``key`` makes it the same message however often it is written: ``backup_failed:zantara-backup-2026-11-23``.
    It is delivered after the commit, at least once; a receiver tells a repetition by the key. Secrets are masked.
    """
    from . import tasks
    from .models import Channel, Delivery, Message

    kinds.get(kind)
    now = clock.now()
    level = _SEVERITIES[severity]
    try:
        with transaction.atomic():
            message = Message(
                key=key[:200],
                kind=kind,
                severity=level,
                title=redact_text(title)[:MOST_TITLE],
                body=redact_text(body)[:MOST_BODY],
                link=link,
                created_at=now,
            )
            message.save(force_insert=True)
            for channel in Channel.objects.filter(active=True):
                if channel.wants(kind, level):
                    Delivery(message=message, channel=channel, due_at=now).save(force_insert=True)
    except IntegrityError:
        if not Message.objects.filter(key=key[:200]).exists():
            raise
        return False
    log.info("message_written", kind=kind, key=message.key)
    transaction.on_commit(tasks.enqueue)
    return True
