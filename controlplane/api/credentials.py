"""The text of a token: made once, shown once, kept as a hash. ``zt_<8 public letters>_<256 random bits>``. Pure."""

from __future__ import annotations

import hmac
import re
import secrets
import string
from dataclasses import dataclass, field
from hashlib import sha256

#: What tells our tokens from others', in headers and to scanners of leaked secrets.
MARK = "zt_"
PREFIX_LENGTH = len(MARK) + 8
_LETTERS = string.ascii_lowercase + string.digits
_FORM = re.compile(r"zt_[a-z0-9]{8}_[A-Za-z0-9_-]{43}")
#: A hash that no text has: what a token is compared with whose prefix nobody knows, so that both take as long.
NOBODYS = "0" * 64


@dataclass(frozen=True, slots=True)
class NewSecret:
    """``text`` is for its owner's eyes, once; ``prefix`` and ``digest`` are kept."""

    prefix: str
    digest: str
    text: str = field(repr=False)


def new_secret() -> NewSecret:
    prefix = MARK + "".join(secrets.choice(_LETTERS) for _ in range(8))
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    return NewSecret(prefix, digest_of(text), text)


def prefix_of(text: str) -> str | None:
    """The public part of a token; None where this is none."""
    return text[:PREFIX_LENGTH] if _FORM.fullmatch(text) else None


def digest_of(text: str) -> str:
    """SHA-256 in hex. With 256 random bits behind it, nothing slower is needed."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def matches(text: str, digest: str) -> bool:
    """Whether the text has this hash, in a time that does not tell where they differ."""
    return hmac.compare_digest(digest_of(text), digest)
