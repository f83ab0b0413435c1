"""How states, steps and instances are said on our pages: always an icon and words, never colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from controlplane.console.base import Tone, badge, human_seconds, since

State = tuple[str, Tone, str]

DEPLOYMENT_STATES: Mapping[str, State] = {
    "waiting": ("Waiting", "muted", "hourglass_empty"),
    "queued": ("Queued", "info", "schedule"),
    "fetching": ("Fetching", "info", "download"),
    "checking": ("Checking", "info", "fact_check"),
    "building": ("Building", "info", "construction"),
    "backing_up": ("Backing up", "info", "shield"),
    "starting": ("Starting instances", "info", "play_circle"),
    "shifting": ("Shifting traffic", "info", "swap_horiz"),
    "baking": ("Watching", "info", "monitor_heart"),
    "validating": ("Validating", "info", "rule"),
    "finishing": ("Finishing", "info", "flag"),
    "rolling_back": ("Rolling back", "warn", "undo"),
    "rollback_blocked": ("Rollback blocked", "bad", "block"),
    "paused": ("Paused", "warn", "pause_circle"),
    "succeeded": ("Succeeded", "ok", "check_circle"),
    "rolled_back": ("Rolled back", "warn", "undo"),
    "failed": ("Failed", "bad", "error"),
    "aborted": ("Aborted", "muted", "cancel"),
}
#: What each means, in the sentence that the page begins with; docs/deployments.md says more.
MEANS: Mapping[str, str] = {
    "waiting": "It waits: another deployment of the service is active, or the line is stopped.",
    "queued": "It is about to begin.",
    "fetching": "The release is fetched from its source. No traffic moves yet.",
    "checking": "The service's checks run. No traffic moves yet.",
    "building": "The release is built. No traffic moves yet.",
    "backing_up": "The backup is taken. No traffic moves before it is committed.",
    "starting": "New instances start beside the old ones, which serve everybody still.",
    "shifting": "The edge is told the new share and asked whether it does so.",
    "baking": "The new release is watched at this share of the traffic.",
    "validating": "Everybody is on the new release, and the service's own validation runs.",
    "finishing": "It went well. The old instances finish what they have, and stop.",
    "rolling_back": "The traffic goes back to the old release, then the new instances stop.",
    "rollback_blocked": "It is bad, and there is nothing to go back to by itself. A person must decide.",
    "paused": "It is held where it is. The traffic stays as it is.",
    "succeeded": "Everybody is on the new release.",
    "rolled_back": "Everybody is on the old release again.",
    "failed": "It ended before any traffic moved. The old release serves as before.",
    "aborted": "It was aborted before any traffic moved. The old release serves as before.",
}
STEP_OUTCOMES: Mapping[str, State] = {
    "": ("Running", "info", "sync"),
    "to_come": ("To come", "muted", "radio_button_unchecked"),
    "skipped": ("Skipped", "muted", "remove"),
    "passed": ("Passed", "ok", "check_circle"),
    "failed": ("Failed", "bad", "error"),
    "warned": ("Warning", "warn", "warning"),
    "unknown": ("Not known", "muted", "help"),
    "timed_out": ("Took too long", "bad", "timer_off"),
}
CONDITIONS: Mapping[str, State] = {
    "starting": ("Starting", "info", "play_circle"),
    "ready": ("Ready", "ok", "check_circle"),
    "unready": ("Not ready", "bad", "heart_broken"),
    "draining": ("Draining", "muted", "hourglass_bottom"),
    "stopping": ("Stopping", "muted", "stop_circle"),
    "stopped": ("Stopped", "muted", "remove"),
    "failed": ("Failed", "bad", "error"),
}
VERDICTS: Mapping[str, State] = {
    "pass": ("Nothing speaks against it", "ok", "check_circle"),
    "fail": ("Worse than the old release", "bad", "error"),
    "inconclusive": ("Too little data to tell", "warn", "help"),
}
PHASES: Mapping[str, str] = {"fetch": "Fetch", "check": "Check", "build": "Build", "validate": "Validate"}


def state_badge(state: str, table: Mapping[str, State] = DEPLOYMENT_STATES) -> SafeString:
    """The badge of a state; one that the table does not know is shown as it is."""
    text, tone, icon = table.get(state, (state.replace("_", " ").capitalize(), "muted", "help"))
    return badge(text, tone, icon)


def docs_link(anchor: str = "") -> str:
    """The address of our page of the documentation; "" where the console has none."""
    try:
        address = reverse("admin:docs", args=("deployments",))
    except NoReverseMatch:
        return ""
    return f"{address}#{anchor}" if anchor else address


def share(permille: int | None) -> str:
    """``10 %``; “not known” where the edge was not asked."""
    return "not known" if permille is None else f"{permille / 10:g} %"


def took(started: datetime | None, ended: datetime | None) -> str:
    """How long something ran; "" where it did not."""
    if started is None or ended is None:
        return ""
    return human_seconds(max(0.0, (ended - started).total_seconds()))


def moment(at: datetime | None) -> str:
    """A time for a sentence: ``2026-11-23 02:00 UTC``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "–"


def small(text: object) -> SafeString:
    """A second line of a cell."""
    return format_html('<small class="zt-line zt-muted-text">{}</small>', text) if text else SafeString("")


def short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def code(text: str) -> SafeString | str:
    """A hash or a path, in the letters of a program."""
    return format_html('<span class="zt-hash">{}</span>', text) if text else ""


def when_cell(at: datetime | None, note: str = "") -> SafeString:
    return format_html("{}{}", since(at), small(note))


def link(address: str, text: object) -> SafeString:
    return format_html('<a class="zt-link" href="{}">{}</a>', address, text)


def counted(count: int, noun: str) -> str:
    """``1 step``, ``3 steps``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
