"""What a key may be. One rule for every store, so that a set can be moved from one to the other."""

from __future__ import annotations

import re

from controlplane.kernel.errors import Refused

#: No component is empty, begins with a dot (``..``, hidden files, our own temporary ones) or holds a character that
#: some store, shell or file system treats in its own way.
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")
_LONGEST = 900  # S3 takes 1024 bytes, a target's prefix included


def is_key(key: str) -> bool:
    """Whether a store could hold an object of ours under this key."""
    return 0 < len(key) <= _LONGEST and all(_COMPONENT.fullmatch(part) for part in key.split("/"))


def checked_key(key: str) -> str:
    """The key; Refused where it could mean another place than it says."""
    if not is_key(key):
        raise Refused(f"{key!r} is no key of an object.", remedy="Letters, digits and . _ + = @ - between slashes.")
    return key


def checked_prefix(prefix: str) -> str:
    """A folder's name with its slash, or nothing; Refused otherwise."""
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise Refused(f"{prefix!r} is no folder of a store.", remedy="It ends in one slash and begins with none.")
    return prefix
