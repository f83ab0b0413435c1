"""Typed readers of environment variables: nonsense is refused, never guessed at.

ZANTARA_X           the value
ZANTARA_X_FILE      for secrets: a file that holds the value (its trailing newline is not part of it)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit

from .errors import ConfigurationError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d+)\s*(b|kb|kib|mb|mib|gb|gib|tb|tib)?", re.IGNORECASE)
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "kib": 2**10,
    "mb": 10**6,
    "mib": 2**20,
    "gb": 10**9,
    "gib": 2**30,
    "tb": 10**12,
    "tib": 2**40,
}


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``15m``, ``1h``, ``2d`` or ``250ms``; ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 90s, 15m, 1h or 2d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes in ``512``, ``10MB`` (10**6) or ``16MiB`` (2**20); ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512, 10MB or 16MiB")
    return int(match[1]) * _BYTES[(match[2] or "b").lower()]


class Env:
    """Reads one mapping of variables, usually ``os.environ``."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def _raw(self, name: str) -> str | None:
        value = self._environ.get(name)
        return None if value is None or value.strip() == "" else value.strip()

    @staticmethod
    def _wrong(name: str, why: str) -> ConfigurationError:
        return ConfigurationError(f"{name} {why}.", remedy=f"Correct {name} or unset it.")

    @overload
    def text(self, name: str, default: str) -> str: ...
    @overload
    def text(self, name: str, default: None = None) -> str | None: ...
    def text(self, name: str, default: str | None = None) -> str | None:
        value = self._raw(name)
        return default if value is None else value

    def flag(self, name: str, default: bool) -> bool:
        value = self._raw(name)
        if value is None:
            return default
        if value.lower() in {"1", "true", "yes", "on"}:
            return True
        if value.lower() in {"0", "false", "no", "off"}:
            return False
        raise self._wrong(name, f"is {value!r}, which is neither true nor false")

    def integer(self, name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
        value = self._raw(name)
        if value is None:
            return default
        try:
            number = int(value)
        except ValueError:
            raise self._wrong(name, f"is {value!r}, which is not a whole number") from None
        if (least is not None and number < least) or (most is not None and number > most):
            raise self._wrong(name, f"is {number}, outside {least} to {most}")
        return number

    def port(self, name: str, default: int) -> int:
        return self.integer(name, default, least=1, most=65535)

    def duration(self, name: str, default_seconds: float) -> float:
        value = self._raw(name)
        if value is None:
            return default_seconds
        try:
            return parse_duration(value)
        except ValueError as error:
            raise self._wrong(name, f"is wrong: {error}") from None

    def size(self, name: str, default_bytes: int) -> int:
        value = self._raw(name)
        if value is None:
            return default_bytes
        try:
            return parse_size(value)
        except ValueError as error:
            raise self._wrong(name, f"is wrong: {error}") from None

    def url(self, name: str, default: str | None = None, *, schemes: Sequence[str]) -> str | None:
        value = self._raw(name)
        if value is None:
            return default
        if urlsplit(value).scheme not in schemes:
            raise self._wrong(name, f"must begin with one of {', '.join(s + '://' for s in schemes)}")
        return value

    def items(self, name: str, default: Sequence[str] = ()) -> list[str]:
        value = self._raw(name)
        if value is None:
            return list(default)
        return [part.strip() for part in value.split(",") if part.strip()]

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        value = self._raw(name)
        if value is None:
            return default
        if value not in choices:
            raise self._wrong(name, f"is {value!r}; it can be {', '.join(choices)}")
        return value

    def path(self, name: str, default: Path) -> Path:
        value = self._raw(name)
        return (default if value is None else Path(value).expanduser()).absolute()

    def secret(self, name: str, default_file: Path | None = None) -> str | None:
        """The secret NAME, else the contents of the file NAME_FILE, else of ``default_file`` if it exists.

        Both NAME and NAME_FILE set is refused: nobody could tell which one holds.
        """
        value, file = self._raw(name), self._raw(f"{name}_FILE")
        if value is not None and file is not None:
            raise self._wrong(name, f"and {name}_FILE are both set")
        if value is not None:
            return value
        if file is None:
            if default_file is None or not default_file.is_file():
                return None
            file = os.fspath(default_file)
        try:
            text = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigurationError(
                f"{name}_FILE names {file}, which cannot be read ({reason}).",
                remedy="Make the file readable for the user that runs this process.",
            ) from None
        if not text:
            raise ConfigurationError(f"{name}_FILE names {file}, which is empty.", remedy="Put the secret into it.")
        return text
