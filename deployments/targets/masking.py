"""What instances said, without the secrets that they were given."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from controlplane.kernel.encrypted import decrypt, encrypt
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.logs import MASK, redact_text

#: A shorter value would mask half of every line and hides nothing that cannot be guessed.
_SHORTEST = 4
WITHHELD = "(withheld: the key that says what must be masked here is not this installation's any more)"


def seal(secrets: Iterable[str]) -> str:
    """The values, encrypted, so that whoever shows a log later knows what to mask; empty for none."""
    values = sorted({value for value in secrets if value})
    return encrypt(json.dumps(values)) if values else ""


def unseal(sealed: str) -> list[str] | None:
    """The values again; None where they cannot be read."""
    try:
        return list(json.loads(decrypt(sealed))) if sealed else []
    except (ConfigurationError, ValueError):
        return None


def masked(text: str, secrets: Iterable[str] | None) -> str:
    """The text without these values and without what looks like a secret. None: the values are not known."""
    if secrets is None:
        return WITHHELD if text else ""
    parts = {part for value in secrets for part in (value, *value.splitlines()) if len(part) >= _SHORTEST}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, MASK)
    return redact_text(text)


def tail(path: Path, most_bytes: int, secrets: Iterable[str] | None) -> str:
    """The last whole lines of a log, masked; empty where there is none.

    More than what is shown is read and masked first: a secret that the cut goes through would be recognised by nobody.
    Where the log has just begun anew, the older one (``.1``) goes before it.
    """
    wanted = most_bytes + 65536
    data = _end_of(path, wanted)
    if len(data) < wanted:
        data = _end_of(path.with_name(f"{path.name}.1"), wanted - len(data)) + data
    if len(data) >= wanted:
        data = data.partition(b"\n")[2] or data
    return last_lines(masked(data.decode("utf-8", "replace"), secrets), most_bytes)


def _end_of(path: Path, most_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - most_bytes))
            return file.read(most_bytes)
    except OSError:
        return b""


def last_lines(text: str, most_bytes: int) -> str:
    """The end of a text, from the beginning of a line where there is one."""
    data = text.encode()
    if len(data) <= most_bytes:
        return text
    cut = data[-most_bytes:]
    return (cut.partition(b"\n")[2] or cut).decode("utf-8", "ignore")
