"""Numbers and names as the judge's sentences say them. Pure."""

from __future__ import annotations

import math

#: Between the thousands of a number; does not break over lines.
_SPACE = "\u202f"


def count(number: float) -> str:
    """``5 488``; rounded to a whole number."""
    return f"{round(number):,}".replace(",", _SPACE)


def share(part: float, whole: float) -> str:
    """``5.1 %``, ``0.07 %``, ``100 %``: two figures, and never 0 for something nor 100 for not all."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent >= 99.5 and part < whole:
        return f"{max(99.0, math.floor(percent * 100) / 100):g} %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def of(part: float, whole: float, what: str = "") -> str:
    """``31 of 612 requests (5.1 %)``."""
    return f"{count(part)} of {count(whole)}{f' {what}' if what else ''} ({share(part, whole)})"


def chance(e: float) -> str:
    """``1 in 12 000 by chance``: how rarely a release that is no worse shows such evidence, to two figures."""
    if e >= 1e9:
        return "less than 1 in a billion by chance"
    digits = max(0, math.floor(math.log10(max(e, 1))) - 1)
    return f"1 in {count(max(1, math.floor(e / 10**digits) * 10**digits))} by chance"


def release(version: str, *, otherwise: str) -> str:
    """``release 43``; ``otherwise`` where it has no name."""
    return f"release {version}" if version else otherwise


def sentence(text: str) -> str:
    """The text with a capital at its beginning and a full stop at its end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
