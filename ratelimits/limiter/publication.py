"""Policy sets in Redis: who may replace what. A higher version alone replaces a published set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

import redis

from ratelimits.decision import PolicySet

from . import keys
from .script import PUBLISH

#: ``PolicySet.to_json``: the digest is over the bytes of ``body``, so members that we do not know are covered.
_PUBLISHED = re.compile(rb'\{"digest":"(?P<digest>[0-9a-f]{16})","policies":(?P<body>.*),"version":(?P<version>\d+)\}')


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


def version_of(tag: str | bytes) -> int:
    """The tag's version; 0 for one that is not ours. Read as ``publish.lua`` reads it."""
    head = re.match(rb"[0-9]{1,15}(?=\.)", tag if isinstance(tag, bytes) else tag.encode())
    return int(head[0]) if head else 0


def read(tag: bytes, text: bytes) -> PolicySet:
    """The set that was published under this tag; ValueError for anything but exactly that text."""
    parts = _PUBLISHED.fullmatch(text)
    if parts is None or tag != parts["version"] + b"." + parts["digest"]:
        raise ValueError("not the set of this tag")
    if PolicySet.content_digest(parts["body"].decode()) != parts["digest"].decode():
        raise ValueError("the set was changed after it was published")
    return PolicySet.from_json(text)


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
    return Publication("in_force" if held == tag.encode() else "superseded", version_of(cast("bytes", held)))


def tag_in_force(client: redis.Redis) -> str | None:
    """The tag that Redis holds, "0" where it holds none, None where it does not answer.

    A tag without the very set that it names is answered as ``version.unreadable``: no process could learn
    that set, so something newer must replace it.
    """
    try:
        tag, text = cast("list[bytes | None]", client.hmget(keys.POLICY_SET, ["tag", "set"]))
    except redis.ResponseError:
        return "0"  # something else lies there
    except (redis.RedisError, OSError):
        return None
    if tag is None or tag == b"0":
        return "0"
    try:
        read(tag, text or b"")
    except ValueError:
        return f"{version_of(tag)}.unreadable"
    return tag.decode()
