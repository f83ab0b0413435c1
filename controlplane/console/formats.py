"""How values are shown on pages: sizes, durations, rates, moments and states. Pure; knows no theme."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from controlplane.kernel.clock import now as clock_now

Tone = Literal["ok", "warn", "bad", "info", "muted"]

#: Each tone has an icon of its own: a state is never told by colour alone (WCAG 2.2, 1.4.1).
TONE_ICONS: dict[str, str] = {
    "ok": "check_circle",
    "warn": "warning",
    "bad": "error",
    "info": "info",
    "muted": "remove",
}

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def badge(text: object, tone: Tone = "muted", icon: str | None = None) -> SafeString:
    """A state as icon and text. ``icon`` is a Material Symbols name; each tone brings its own."""
    if tone not in TONE_ICONS:
        raise ValueError(f"There is no tone {tone!r}; known: {', '.join(TONE_ICONS)}.")
    return format_html(
        '<span class="zt-badge zt-{}"><span class="material-symbols-outlined" aria-hidden="true">{}</span>'
        '<span class="zt-badge-text">{}</span></span>',
        tone,
        icon or TONE_ICONS[tone],
        text,
    )


def with_code(text: str) -> SafeString:
    """Text for people in which `words in backquotes` are shown as code; everything else is escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return format_html("{}", text)
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", p) if n % 2 else p,) for n, p in enumerate(parts))
    )


def human_seconds(seconds: float) -> str:
    """A duration in its two largest units: ``15 min``, ``1 h 30 min``, ``2 d``; below one second in ``ms``."""
    if seconds < 0:
        return f"-{human_seconds(-seconds)}"
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    rest = round(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        if rest >= size:
            whole, rest = divmod(rest, size)
            if index + 1 < len(_UNITS):
                next_size, next_unit = _UNITS[index + 1]
                if rest >= next_size:
                    return f"{whole} {unit} {rest // next_size} {next_unit}"
            return f"{whole} {unit}"
    return "0 s"


def human_bytes(size: float) -> str:
    """A size in binary units: ``512 B``, ``1.5 KiB``, ``20 GiB``."""
    if size < 0:
        return f"-{human_bytes(-size)}"
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    index = 0
    while size >= 1024 and index < len(units) - 1:
        size /= 1024
        index += 1
    text = f"{size:.0f}" if index == 0 or size >= 100 else f"{size:.1f}".removesuffix(".0")
    return f"{text} {units[index]}"


def rate_text(requests: int | None, window_seconds: float) -> str:
    """A limit as people say it: ``1000 / 15 min``; ``None`` requests are ``unlimited``."""
    if requests is None:
        return "unlimited"
    return f"{requests} / {human_seconds(window_seconds)}"


def relative_text(moment: datetime, now: datetime) -> str:
    """``just now``, ``3 min ago``, ``in 2 h``: one unit, rounded down."""
    seconds = (now - moment).total_seconds()
    size = abs(seconds)
    if size < 1:
        return "just now"
    text = next(f"{int(size // length)} {unit}" for length, unit in _UNITS if size >= length)
    return f"{text} ago" if seconds > 0 else f"in {text}"


def since(moment: datetime | None, *, now: datetime | None = None, empty: str = "never") -> SafeString:
    """A moment as relative text, with the absolute one (UTC) on hover and for machines."""
    if moment is None:
        return format_html('<span class="zt-muted-text">{}</span>', empty)
    at = moment.astimezone(UTC)
    return format_html(
        '<time class="zt-since" datetime="{}" title="{} UTC">{}</time>',
        at.isoformat(),
        at.strftime("%Y-%m-%d %H:%M:%S"),
        relative_text(at, now or clock_now()),
    )
