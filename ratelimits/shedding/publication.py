"""The shedding policy in Redis, beside the limits and by their rule: only a higher version replaces."""

from __future__ import annotations

from typing import cast

import redis

from ratelimits.limiter.keys import TAG
from ratelimits.limiter.publication import Publication, version_of
from ratelimits.limiter.script import PUBLISH

from .policy import SheddingPolicy

KEY = f"{TAG}:shedding"


def tag_of(policy: SheddingPolicy) -> str:
    """``version.digest``; the built-in policy has none."""
    return f"{policy.version}.{policy.digest}" if policy.version else "0"


def read(client: redis.Redis) -> SheddingPolicy | None:
    """The policy in force, None where there is none that can be read. Raises redis-py's errors."""
    try:
        tag, text = cast("list[bytes | None]", client.hmget(KEY, ["tag", "set"]))
    except redis.ResponseError:
        return None  # something else lies there
    try:
        policy = SheddingPolicy.from_json(text or b"")
    except (ValueError, TypeError):
        return None
    return policy if tag == tag_of(policy).encode() else None


def publish(client: redis.Redis, policy: SheddingPolicy) -> Publication:
    """Put a policy in force if Redis holds none or one of a lower version."""
    tag = tag_of(policy)
    try:
        held = cast("bytes", client.eval(PUBLISH.text, 1, KEY, policy.version, tag, policy.to_json()))
    except (redis.RedisError, OSError):
        return Publication("unreachable", None)
    return Publication("in_force" if held == tag.encode() else "superseded", version_of(held))


def tag_in_force(client: redis.Redis) -> str | None:
    """The tag that Redis holds, "0" for none, None where it does not answer."""
    try:
        tag = cast("bytes | None", client.hget(KEY, "tag"))
        if tag is None:
            return "0"
        return tag.decode() if read(client) is not None else f"{version_of(tag)}.unreadable"
    except redis.ResponseError:
        return "0"
    except (redis.RedisError, OSError):
        return None
