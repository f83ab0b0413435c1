"""What an operator may decide about shedding, and what follows of it for one request. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any, Literal

from controlplane.identity.roles import SEED_PRIORITIES
from controlplane.monitoring.pressure import Pressure

#: A sample this old says nothing any more: whoever took it has stopped.
STALE_AFTER_SECONDS = 5.0
#: The seed exempts its highest role.
SEED_EXEMPT = max(SEED_PRIORITIES, key=SEED_PRIORITIES.__getitem__)
RETRY_AFTER_SECONDS = 30

Controller = Literal["adaptive", "bound", "lag", "wait", "gradient2", "off"]
CONTROLLERS: tuple[Controller, ...] = ("adaptive", "bound", "lag", "wait", "gradient2", "off")
Reason = Literal["memory", "connections", "pressure", "in_flight"]


class Rank(IntEnum):
    """How much a role counts when not all can be served."""

    LOW = 0
    MIDDLE = 1
    TOP = 2


def rank_of(role: str, priorities: dict[str, int] | Any) -> Rank:
    """The highest priority in the table is TOP, the lower half LOW; a role that nobody knows is LOW.

    Where all roles count alike there is nobody to prefer, and all are TOP.
    """
    steps = sorted(set(priorities.values()), reverse=True)
    if role not in priorities:
        return Rank.LOW if len(steps) > 1 else Rank.TOP
    place = steps.index(priorities[role])
    if place == 0:
        return Rank.TOP
    return Rank.LOW if place >= (len(steps) + 1) // 2 else Rank.MIDDLE


@dataclass(frozen=True, slots=True)
class SheddingPolicy:
    """The one row. Percentages are of the memory's limit or of a bound; times in milliseconds."""

    version: int = 0
    active: bool = True
    controller: Controller = "adaptive"
    lag_ms: int = 25
    queue_wait_ms: int = 250
    low_share_percent: int = 40
    middle_share_percent: int = 75
    memory_limit_percent: int = 90
    connections_limit: int = 1000
    pressure_percent: int = 75
    delay_step_ms: int = 20
    most_delay_ms: int = 1000
    path_prefixes: tuple[str, ...] = ("/zantara.",)
    exempt_roles: tuple[str, ...] = (SEED_EXEMPT,)

    @property
    def digest(self) -> str:
        return content_digest(self._body())

    def _body(self) -> str:
        members = {name: value for name, value in asdict(self).items() if name != "version"}
        return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def to_json(self) -> str:
        return f'{{"digest":"{self.digest}","policy":{self._body()},"version":{self.version}}}'

    @classmethod
    def from_json(cls, text: str | bytes) -> SheddingPolicy:
        """ValueError for anything that was not published by ``to_json``; members that we do not know are left out."""
        raw = text if isinstance(text, bytes) else text.encode()
        parts = _PUBLISHED.fullmatch(raw)
        if parts is None or content_digest(parts["body"].decode()) != parts["digest"].decode():
            raise ValueError("not a published shedding policy")
        members = json.loads(parts["body"])
        known = {field.name: field for field in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in members.items()
            if name in known and name != "version"
        }
        if values.get("controller") not in CONTROLLERS:
            values["controller"] = "adaptive"  # published by a newer release
        return cls(version=int(parts["version"]), **values)

    def concerns(self, path: str) -> bool:
        """Whether the fixed limits and the rising pressure hold for this path."""
        return path.startswith(self.path_prefixes)


#: The digest is over the bytes of ``policy``, so members that we do not know are covered.
_PUBLISHED = re.compile(
    rb'\{"digest":"(?P<digest>[0-9a-f]{16})","policy":(?P<body>\{.*\}),"version":(?P<version>\d+)\}'
)


def content_digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


BUILT_IN = SheddingPolicy()


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is set where the request is refused; else it waits ``delay_seconds`` (0: not at all)."""

    reason: Reason | None = None
    delay_seconds: float = 0.0


PASS = Verdict()


def under_pressure(
    policy: SheddingPolicy,
    pressure: Pressure,
    role: str,
    now: float,
    random: float,
    *,
    rank: Rank,
    may_wait: bool,
) -> Verdict:
    """What the fixed limits and rising memory say about a request for one of the policy's paths.

    ``now`` is the monotonic clock, ``random`` in [0, 1). ``may_wait`` is true in async code, where a request
    that waits holds nobody up. In a sync worker it would hold a thread, so that there a growing share of the low
    classes is refused early instead: none at ``pressure_percent``, all at ``memory_limit_percent``.
    """
    if role in policy.exempt_roles or now - pressure.sampled_at > STALE_AFTER_SECONDS:
        return PASS
    if pressure.memory_percent > policy.memory_limit_percent:
        return Verdict("memory")
    if pressure.connections > policy.connections_limit:
        return Verdict("connections")
    over = pressure.memory_percent - policy.pressure_percent
    if over <= 0:
        return PASS
    if may_wait:
        return Verdict(delay_seconds=min(policy.most_delay_ms, over * policy.delay_step_ms) / 1000)
    span = policy.memory_limit_percent - policy.pressure_percent
    if rank is Rank.LOW and span > 0 and random < over / span:
        return Verdict("pressure")
    return PASS
