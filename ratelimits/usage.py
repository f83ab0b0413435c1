"""Use per profile in the current window, read from the limiter's own counters; and forgetting a caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import redis

from .decision import Policy
from .limiter import get_limiter, keys
from .limiter.script import USAGE
from .policies import client
from .window import bucket_width


@dataclass(frozen=True, slots=True)
class Usage:
    """One profile over the last window. A shadow's ``denied`` is what it would have denied.

    ``callers`` is an estimate (HyperLogLog, standard error 0.81 %), the other two are exact.
    """

    allowed: int
    denied: int
    callers: int


def usage_of(policies: Iterable[Policy]) -> dict[int, Usage]:
    """Usage by policy id, in one round trip; empty where Redis does not answer."""
    wanted = [policy for policy in policies if policy.requests is not None]
    if not wanted:
        return {}
    try:
        answer = cast(
            "list[int]",
            client().eval(
                USAGE.text,
                len(wanted),
                *(keys.usage(policy.id) for policy in wanted),
                *(bucket_width(policy.window_seconds) for policy in wanted),
            ),
        )
    except (redis.RedisError, OSError):
        return {}
    return {policy.id: Usage(*answer[3 * n : 3 * n + 3]) for n, policy in enumerate(wanted)}


def reset_caller(policy: Policy, *, subject: str, address: str) -> bool:
    """Forget what one caller has used of a policy; False where nothing was counted. Unavailable if Redis is away."""
    digest = get_limiter().caller_hash(policy, subject=subject, address=address)
    return reset_key(policy.id, keys.caller_text(digest))


def reset_key(policy_id: int, caller: str) -> bool:
    """The same for a caller known by his key hash (from a decision id)."""
    from controlplane.kernel.errors import Unavailable

    try:
        return bool(client().delete(*(keys.counter(policy_id, window, caller) for window in (0, 1))))
    except (redis.RedisError, OSError):
        raise Unavailable("Redis does not answer.", remedy="Nothing was reset; try again when it is back.") from None
