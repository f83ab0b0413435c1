"""Names that become directories."""

from __future__ import annotations

import re

from controlplane.kernel.errors import Refused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}")


def named(text: str) -> str:
    """The name, certainly one harmless part of a path; Refused otherwise."""
    if not _NAME.fullmatch(text):
        raise Refused(f"{text!r} cannot be the name of a directory.", remedy="Use letters, digits, dots, -, _ and +.")
    return text
