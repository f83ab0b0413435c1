"""A handler's parameters, read by name and type; whatever is wrong is refused with the way to put it right."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.kernel.errors import Refused

MOST_TEXT_CHARACTERS = 4000
MOST_METADATA_BYTES = 2048
MOST_ID_CHARACTERS = 200
MOST_RESULTS = 100


class Params:
    """The members of a JSON object. Each reader raises Refused and names the member."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    def only(self, *known: str) -> None:
        """Refuse members that nobody reads: a misspelt one would otherwise be passed over in silence."""
        unknown = sorted(set(self._members) - set(known))
        if unknown:
            raise Refused(f"There is no parameter {unknown[0][:60]!r}.", remedy=f"Known: {', '.join(known)}.")

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def everything(self) -> Mapping[str, Any]:
        return self._members

    def text(self, name: str) -> str:
        value = self._members.get(name)
        if not isinstance(value, str) or not value.strip():
            raise Refused(f"{name} must be a text.", remedy=f'Send "{name}": "some words".')
        if len(value) > MOST_TEXT_CHARACTERS:
            raise Refused(f"{name} has {len(value)} characters, more than {MOST_TEXT_CHARACTERS}.", remedy="Split it.")
        return value

    def identifier(self, name: str) -> str:
        value = self._members.get(name)
        if not isinstance(value, str) or not value or not value.isprintable() or len(value) > MOST_ID_CHARACTERS:
            raise Refused(
                f"{name} must be 1 to {MOST_ID_CHARACTERS} printable characters.", remedy="Shorten or clean it."
            )
        return value

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self._members.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Refused(f"{name} must be a whole number.", remedy=f"Choose one from {least} to {most}.")
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        value = self._members.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Refused(f"{name} must be a number.", remedy=f"Choose one from {least:g} to {most:g}.")
        return float(value)

    def metadata(self, name: str) -> dict[str, Any]:
        """A flat object of texts, numbers, true, false and null, as Chroma has them."""
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or any(isinstance(member, dict | list) for member in value.values()):
            raise Refused(
                f"{name} must be an object without nested values.", remedy='Send something like {"topic": "backups"}.'
            )
        if len(json.dumps(value, ensure_ascii=False).encode()) > MOST_METADATA_BYTES:
            raise Refused(f"{name} is larger than {MOST_METADATA_BYTES} bytes.", remedy="Keep the text in text.")
        return value

    def vector(self, name: str, dimensions: int) -> Sequence[float]:
        value = self._members.get(name)
        if (
            not isinstance(value, list)
            or len(value) != dimensions
            or any(isinstance(number, bool) or not isinstance(number, int | float) for number in value)
        ):
            raise Refused(
                f"{name} must be a list of {dimensions} numbers.", remedy="Send text to have it embedded here."
            )
        try:
            numbers = [float(number) for number in value]
            length = math.hypot(*numbers)
        except OverflowError:
            length = math.inf
        # Stored as 32-bit floats: beyond 1e18 their squares, and below 1e-18 their length, would be lost.
        if not 1e-18 < length < 1e18:
            raise Refused(f"{name} has no usable direction (its length is 0 or out of range).", remedy="Normalise it.")
        return numbers
