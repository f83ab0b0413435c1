"""Names of what the limiter keeps in Redis. One hash tag for all: a cluster keeps them in one slot.

    {zantara-limits}:set               the policy set in force: fields ``tag`` (version.digest) and ``set`` (JSON)
    {zantara-limits}:c:<policy>:<n>:<caller>   the counter of one caller; n is 0 for the window, 1 for the burst
    {zantara-limits}:u:<policy>        usage of a policy; with :<number> behind it, its callers as a HyperLogLog

``<caller>`` is a keyed hash: no address and no user name can be read from a key.
"""

from __future__ import annotations

import base64
import hashlib

TAG = "{zantara-limits}"
POLICY_SET = f"{TAG}:set"

#: 96 bits: with a million callers the chance that any two share a bucket is about 1 in 10**17.
CALLER_BYTES = 12


def caller_hash(material: str, key: bytes) -> bytes:
    return hashlib.blake2b(material.encode("utf-8", "surrogatepass"), key=key, digest_size=CALLER_BYTES).digest()


def caller_text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def counter(policy_id: int, window: int, caller: str) -> str:
    return f"{TAG}:c:{policy_id}:{window}:{caller}"


def usage(policy_id: int) -> str:
    return f"{TAG}:u:{policy_id}"
