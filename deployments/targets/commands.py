"""From the command that an operator wrote to the argument list that is run: words, then placeholders, never a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .settings import text

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_]*)\}|[{}]")
_NAMED = re.compile(r"\{([a-z_]+)\}")


def command_reader(known: Iterable[str]) -> Callable[[Any], str]:
    """A reader of commands whose placeholders are among ``known``; ``{{`` and ``}}`` are plain braces."""
    names = frozenset(known)

    def read(value: Any) -> str:
        written = text(value)
        try:
            words = shlex.split(written)
        except ValueError as error:
            raise ValueError(f"cannot be split into words ({str(error).lower()})") from None
        if not words or not words[0]:
            raise ValueError("names no program")
        for match in (match for word in words for match in _PLACEHOLDER.finditer(word)):
            if match[0] in ("{{", "}}"):
                continue
            if match[1] is None:
                raise ValueError("has a single brace: write {{ or }}")
            if match[1] not in names:
                raise ValueError(f"has the placeholder {match[0]}; there are {_list(names)}")
        return written

    return read


def split(command: str, values: Mapping[str, str]) -> list[str]:
    """The words of a command that was read, with its placeholders filled in."""

    def fill(match: re.Match[str]) -> str:
        return match[0][0] if match[0] in ("{{", "}}") else values[match[1]]

    return [_PLACEHOLDER.sub(fill, word) for word in shlex.split(command)]


def fill_environ(environ: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The variables with known placeholders filled in; other braces (JSON, say) stay as they are."""
    return {name: _NAMED.sub(lambda m: values.get(m[1], m[0]), str(value)) for name, value in environ.items()}


def _list(names: Iterable[str]) -> str:
    return " ".join(f"{{{name}}}" for name in sorted(names))
