"""One message to one address: a signed webhook of our own, everything else through Apprise.

A webhook gets ``{"key", "kind", "severity", "title", "body", "link", "created_at"}`` as JSON by POST, with

    Idempotency-Key: <key>                       the same for each repetition
    X-Zantara-Timestamp: <unix seconds>
    X-Zantara-Signature: v1=<hex HMAC-SHA256 of "<timestamp>.<body>" under the channel's secret>
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from controlplane.kernel.errors import Refused, Unavailable
from controlplane.kernel.logs import redact_text

TIMEOUT_SECONDS = 8.0
_APPRISE_TYPES = {10: "info", 20: "warning", 30: "failure"}
_NAMES = {10: "info", 20: "warning", 30: "error"}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent, whatever the way."""

    key: str
    kind: str
    severity: int
    title: str
    body: str
    link: str
    created_at: datetime

    def as_json(self) -> bytes:
        return json.dumps(
            {
                "key": self.key,
                "kind": self.kind,
                "severity": _NAMES[self.severity],
                "title": self.title,
                "body": self.body,
                "link": self.link,
                "created_at": self.created_at.isoformat(),
            }
        ).encode()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """What ``X-Zantara-Signature`` holds; receivers compute the same and compare in constant time."""
    return "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def send_webhook(url: str, secret: str, letter: Letter, *, now: datetime) -> None:
    """POST it. Raises Unavailable for anything but a 2xx; redirects are not followed."""
    body, timestamp = letter.as_json(), int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "zantara-control-plane",
        "Idempotency-Key": letter.key,
        "X-Zantara-Timestamp": str(timestamp),
    }
    if secret:
        headers["X-Zantara-Signature"] = signature(secret, timestamp, body)
    try:
        answer = httpx2.post(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False)
    except httpx2.HTTPError as problem:
        # the library's own words may hold the address, and the address may hold a token
        raise Unavailable(f"The webhook did not answer ({type(problem).__name__}).") from None
    if not answer.is_success:
        raise Unavailable(f"The webhook answered {answer.status_code}.")


def send_apprise(address: str, letter: Letter) -> None:
    """Through whatever service the address names. Raises Unavailable where it did not take the message."""
    import apprise  # a hundred services: half a second that only a process which sends should pay

    sender = apprise.Apprise()
    if not sender.add(address):
        raise Refused("Apprise does not know this kind of address.", remedy="Correct the channel's address.")
    text = "\n\n".join(part for part in (letter.body or letter.title, letter.link) if part)
    capture: Any = apprise.LogCapture
    with capture(level=apprise.logging.WARNING) as captured:
        sent = sender.notify(
            title=letter.title, body=text, notify_type=apprise.NotifyType(_APPRISE_TYPES[letter.severity])
        )
        said = redact_text(captured.getvalue().strip()) if captured is not None else ""
    if not sent:
        raise Unavailable(f"The service did not take the message. {_without(address, said)[:500]}".strip())


def check_address(kind: str, address: str) -> None:
    """Refuse what can never be delivered to. Raises Refused, without the address in its words."""
    if kind == "webhook":
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Refused("A webhook's address begins with https:// or http:// and names a host.")
        return
    import apprise

    if not apprise.Apprise().add(address):
        raise Refused(
            "Apprise does not know this kind of address.",
            remedy="Examples: mailto://user:password@mail.example.org, slack://TokenA/TokenB/TokenC.",
        )


def _without(address: str, text: str) -> str:
    """The text without any part of the address that could be a credential."""
    parts = urlsplit(address)
    for secret in filter(None, (address, parts.password, parts.username, *parts.path.split("/"))):
        if len(secret) > 3:
            text = text.replace(secret, "***")
    return text
