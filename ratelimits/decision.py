"""Which profiles apply to a request, as functions of plain data. No I/O, no Django, no clock.

A *policy* is a rate-limit profile as the limiter sees it; a *policy set* is all active policies under
one version number. The set is what travels to Redis; a decision always belongs to one version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

FailMode = Literal["open", "closed", "local"]
KeyExpression = Literal["ip:user", "user", "ip", "user|ip"]

#: The role of everybody who has no profile of his own: anonymous callers and unknown roles.
DEFAULT_ROLE = "default"


@dataclass(frozen=True, slots=True)
class Policy:
    """One active profile.

    ``requests`` per ``window_seconds`` (None: unlimited), with an optional second pair, the burst.
    ``enforced`` False is a shadow: it denies nothing and counts what it would have denied.
    ``version`` is the number of the set in which this policy last changed.
    """

    id: int
    name: str
    role: str
    requests: int | None
    window_seconds: int
    message: str
    route_prefix: str = ""
    subject: str = ""
    burst_requests: int | None = None
    burst_window_seconds: int | None = None
    key: KeyExpression = "ip:user"
    fail_mode: FailMode = "open"
    enforced: bool = True
    version: int = 0

    def matches(self, *, role: str, subject: str, path: str) -> bool:
        return (
            self.role in (role, DEFAULT_ROLE)
            and path.startswith(self.route_prefix)
            and (not self.subject or self.subject == subject)
        )

    def specificity(self, role: str) -> tuple[bool, bool, int, int]:
        """A subject beats a role, an own role beats the default one, then the longer prefix, then the older row."""
        return (bool(self.subject), self.role == role, len(self.route_prefix), -self.id)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All active policies under one version. Version 0 is the set built into the code."""

    version: int
    policies: tuple[Policy, ...] = ()
    digest: str = field(default="", compare=False)

    def to_json(self) -> str:
        body = json.dumps([asdict(policy) for policy in self.policies], separators=(",", ":"), sort_keys=True)
        return f'{{"digest":"{self.content_digest(body)}","policies":{body},"version":{self.version}}}'

    @staticmethod
    def content_digest(body: str) -> str:
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, text: str | bytes) -> PolicySet:
        """Read a published set. Unknown members (of a newer release) are passed over; ValueError if unreadable."""
        try:
            data = json.loads(text)
            known = {f.name for f in fields(Policy)}
            policies = tuple(Policy(**{k: v for k, v in row.items() if k in known}) for row in data["policies"])
            return cls(version=int(data["version"]), policies=policies, digest=str(data.get("digest", "")))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a published policy set: {error}") from None


@dataclass(frozen=True, slots=True)
class Applied:
    """What applies to one request: at most one enforced policy, and at most one shadow beside it."""

    enforced: Policy | None
    shadow: Policy | None

    @property
    def policies(self) -> tuple[Policy, ...]:
        return tuple(p for p in (self.enforced, self.shadow) if p is not None)


def applicable(policies: Iterable[Policy], *, role: str, subject: str, path: str) -> Applied:
    """The most specific enforced policy, and the most specific shadow, for this caller on this path."""
    winners: dict[bool, Policy] = {}
    for policy in policies:
        if not policy.matches(role=role, subject=subject, path=path):
            continue
        best = winners.get(policy.enforced)
        if best is None or policy.specificity(role) > best.specificity(role):
            winners[policy.enforced] = policy
    return Applied(enforced=winners.get(True), shadow=winners.get(False))


def key_material(expression: KeyExpression, *, subject: str, address: str) -> str:
    """The text that names one caller's bucket, before it is hashed.

    ``ip:user``  the seed's: each address of a user counts on its own (``ip:ip`` without a user)
    ``user``     one bucket per user whatever his address; all anonymous callers share one
    ``ip``       one bucket per address, whoever calls from it
    ``user|ip``  per user; per address for callers without one

    The kinds are told apart by a first letter and a separator that neither part can hold, so that a
    user named ``10.0.0.1`` never shares a bucket with that address.
    """
    if expression == "ip:user":
        return f"b\x1f{address}\x1f{subject or address}\x1f{'u' if subject else 'i'}"
    if expression == "user" or (expression == "user|ip" and subject):
        return f"u\x1f{subject}"
    return f"i\x1f{address}"


def policy_name(role: str, *, row_id: int, narrowed: bool) -> str:
    """A short name for headers and pages: the role as a slug, with the row's number where it is narrowed."""
    slug = re.sub(r"[^a-z0-9]+", "-", role.lower()).strip("-") or "role"
    return f"{slug}-{row_id}" if narrowed else slug


#: The seed's five limits per 15 minutes, with its messages: what bootstrap creates, and what a service
#: enforces that has never seen a published set.
SEED: tuple[Mapping[str, Any], ...] = (
    {"role": "AI Bridge/Tech Lead", "requests": 1000, "message": "Too many requests for Tech Lead"},
    {"role": "CEO", "requests": 500, "message": "Too many requests for CEO"},
    {"role": "Setup Team Lead", "requests": 200, "message": "Too many requests for Setup Team"},
    {"role": "External", "requests": 50, "message": "Too many requests for external user"},
    {"role": DEFAULT_ROLE, "requests": 100, "message": "Rate limit exceeded"},
)
SEED_WINDOW_SECONDS = 900

BUILT_IN = PolicySet(
    version=0,
    policies=tuple(
        Policy(
            id=-number,
            name=policy_name(row["role"], row_id=-number, narrowed=False),
            window_seconds=SEED_WINDOW_SECONDS,
            **row,
        )
        for number, row in enumerate(SEED, start=1)
    ),
)
