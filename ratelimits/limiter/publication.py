"""Policy sets in Redis: who may replace what. A higher version alone replaces a published set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import redis

from ratelimits.decision import PolicySet

from . import keys
from .script import PUBLISH


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of an attempt to put a set in force.

    ``in_force``     this very set holds now
    ``superseded``   another set of the same or a higher version holds
    ``unreachable``  Redis did not answer: saved, not yet in force
    """

    status: Literal["in_force", "superseded", "unreachable"]
    version_in_redis: int | None


def tag_of(policies: PolicySet) -> str:
    """``version.digest``: two sets that share a version by accident still differ. The built-in set has none."""
    return f"{policies.version}.{policies.digest}" if policies.version else "0"


def version_of(tag: str) -> int:
    head = tag.split(".", 1)[0]
    return int(head) if head.isdecimal() else 0


def with_digest(policies: PolicySet) -> PolicySet:
    """The set as it is read back once published."""
    return PolicySet.from_json(policies.to_json())


def publish(client: redis.Redis, policies: PolicySet) -> Publication:
    """Put a set in force if Redis holds none or a lower version."""
    policies = with_digest(policies)
    tag = tag_of(policies)
    try:
        held = client.eval(PUBLISH.text, 1, keys.POLICY_SET, policies.version, tag, policies.to_json())
    except (redis.RedisError, OSError):
        return Publication("unreachable", None)
    text = cast("bytes", held).decode()
    return Publication("in_force" if text == tag else "superseded", version_of(text))


def tag_in_force(client: redis.Redis) -> str | None:
    """The tag that Redis holds, "0" where it holds none, None where it does not answer."""
    try:
        held = client.hget(keys.POLICY_SET, "tag")
    except (redis.RedisError, OSError):
        return None
    return cast("bytes", held).decode() if held else "0"
