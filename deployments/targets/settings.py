"""The settings of a kind of target: a table of fields, read from what an operator wrote, with defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from controlplane.kernel.errors import Refused

#: What may be asked of a process; each has a number on every POSIX system.
STOP_SIGNALS = ("TERM", "QUIT", "INT", "HUP", "USR1", "USR2", "WINCH")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, its default, how what was given is read (ValueError says what is wrong), and its help."""

    name: str
    default: Any
    read: Callable[[Any], Any]
    help: str
    required: bool = False


def read_settings(kind: str, table: Sequence[Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the table, as given or by default. Refused for an unknown, missing or impossible one."""
    if not isinstance(given, Mapping):
        raise Refused(f"The settings of a {kind} target are no table.", remedy='Write {"name": value, …}.')
    known = {setting.name for setting in table}
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise Refused(
            f"A {kind} target has no setting {unknown[0]!r}.", remedy=f"It has: {', '.join(s.name for s in table)}."
        )
    read: dict[str, Any] = {}
    for setting in table:
        value = given.get(setting.name)
        if value is None or value == "":
            if setting.required:
                raise Refused(f"A {kind} target needs the setting {setting.name!r}.", remedy=setting.help)
            read[setting.name] = setting.default
            continue
        try:
            read[setting.name] = setting.read(value)
        except ValueError as error:
            raise Refused(f"The setting {setting.name!r} {error}.", remedy=setting.help) from None
    return read


def text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("is no text")
    return value


def integer(least: int, most: int) -> Callable[[Any], int]:
    """Whole numbers of a range; a form gives them as text."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("is no whole number")
        try:
            number = int(value)
        except ValueError:
            raise ValueError("is no whole number") from None
        if not least <= number <= most:
            raise ValueError(f"is {number}, and must be {least} to {most}")
        return number

    return read


def number(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("is no number")
        try:
            found = float(value)
        except ValueError:
            raise ValueError("is no number") from None
        if not least <= found <= most:
            raise ValueError(f"is {found:g}, and must be {least:g} to {most:g}")
        return found

    return read


def address(value: Any) -> str:
    """One address of this machine; the edge must know where to connect to."""
    try:
        found = ip_address(text(value))
    except ValueError:
        raise ValueError("is no IP address") from None
    if found.is_unspecified or found.is_multicast:
        raise ValueError("must be one address, not all of them")
    return str(found)


def stop_signal(value: Any) -> str:
    name = text(value).upper().removeprefix("SIG")
    if name not in STOP_SIGNALS:
        raise ValueError(f"is none of {', '.join(STOP_SIGNALS)}")
    return name


def port_range(value: Any) -> str:
    """``20000-29999``, or one port."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", str(value))
    if match is None or isinstance(value, bool):
        raise ValueError("is no range of ports")
    first = int(match[1])
    last = int(match[2] or first)
    if not 1 <= first <= last <= 65535:
        raise ValueError("must rise, from 1 to 65535")
    return f"{first}-{last}"


def ports_of(written: str) -> tuple[int, int]:
    """First and last port of what ``port_range`` gave."""
    first, _, last = written.partition("-")
    return int(first), int(last)


def names(value: Any) -> list[str]:
    """Names of variables, as a list or with commas between them; ``*`` stands for any ending."""
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise ValueError("is no list of names")
    stripped = [name.strip() for name in found if name.strip()]
    for name in stripped:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
            raise ValueError(f"names {name!r}, which is no variable")
    return stripped
