"""How states, triggers and levels of proof are said on our pages: always an icon and words, never colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.models import BackupRecord, ProofRun
from backups.sources.base import Finding, kinds
from controlplane.console.base import Tone, badge, human_bytes, human_seconds, since

State = tuple[str, Tone, str]

RECORD_STATES: Mapping[str, State] = {
    "queued": ("Waiting", "info", "schedule"),
    "running": ("Running", "info", "sync"),
    "committed": ("Committed", "ok", "check_circle"),
    "expiring": ("To be deleted", "warn", "auto_delete"),
    "deleting": ("Being deleted", "warn", "auto_delete"),
    "deleted": ("Deleted", "muted", "delete"),
    "failed": ("Failed", "bad", "error"),
    "cancelled": ("Cancelled", "muted", "cancel"),
}
PROOF_STATES: Mapping[str, State] = {
    "queued": ("Waiting", "info", "schedule"),
    "running": ("Running", "info", "sync"),
    "passed": ("Passed", "ok", "verified"),
    "failed": ("Failed", "bad", "error"),
    "unknown": ("Not known", "muted", "help"),
    "not_possible": ("Not possible here", "muted", "key_off"),
    "cancelled": ("Cancelled", "muted", "cancel"),
}
RESTORE_STATES: Mapping[str, State] = {
    "queued": ("Waiting", "info", "schedule"),
    "preflight": ("Checking first", "info", "checklist"),
    "safety_backup": ("Safety backup", "info", "shield"),
    "stopping": ("Stopping services", "info", "stop_circle"),
    "restoring": ("Restoring beside", "info", "sync"),
    "validating": ("Comparing", "info", "rule"),
    "swapping": ("Swapping in", "info", "swap_horiz"),
    "starting": ("Starting services", "info", "play_circle"),
    "checking": ("Checking health", "info", "monitor_heart"),
    "rolling_back": ("Going back", "warn", "undo"),
    "done": ("Restored", "ok", "check_circle"),
    "rolled_back": ("Put back as it was", "warn", "undo"),
    "failed": ("Failed", "bad", "error"),
    "refused": ("Refused", "muted", "block"),
    "cancelled": ("Cancelled", "muted", "cancel"),
}
STEP_STATES: Mapping[str, State] = {
    "waiting": ("To come", "muted", "radio_button_unchecked"),
    "running": ("Running", "info", "sync"),
    "done": ("Done", "ok", "check_circle"),
    "passed": ("Done", "ok", "check_circle"),
    "pass": ("Done", "ok", "check_circle"),
    "ok": ("Done", "ok", "check_circle"),
    "skipped": ("Not needed", "muted", "remove"),
    "warn": ("Look at this", "warn", "warning"),
    "undone": ("Put back", "warn", "undo"),
    "fail": ("Failed", "bad", "error"),
    "failed": ("Failed", "bad", "error"),
}
FINDINGS: Mapping[str, State] = {
    "pass": ("As expected", "ok", "check_circle"),
    "warn": ("Look at this", "warn", "warning"),
    "fail": ("Not as expected", "bad", "error"),
    "unknown": ("Not known", "muted", "help"),
    "not_possible": ("Not possible here", "muted", "key_off"),
    "skipped": ("Not looked at", "muted", "remove"),
}
#: What each level proves, in a word for a badge and in a sentence.
LEVELS = ("L0 present", "L1 hashes", "L2 readable", "L3 restored")
LEVEL_MEANS = (
    "Every stored part is there and has the right size.",
    "Every stored part was read again and has the right hash.",
    "Everything was decrypted, decompressed and parsed.",
    "It was restored into scratch and compared with what was saved, exactly.",
)
#: A proof older than this is told as old (the operator is notified at the same age).
OLD_PROOF_SECONDS = 7 * 86400

#: States of a record, a proof or a restore that something is still done about.
ACTIVE_RECORD = ("queued", "running")
ACTIVE_PROOF = ("queued", "running")
ENDED_RESTORE = ("done", "rolled_back", "failed", "refused", "cancelled")


def state_badge(state: str, table: Mapping[str, State]) -> SafeString:
    """The badge of a state; one that the table does not know is shown as it is."""
    text, tone, icon = table.get(state, (state.replace("_", " ").capitalize(), "muted", "help"))
    return badge(text, tone, icon)


def docs_link(anchor: str = "") -> str:
    """The address of our page of the documentation; "" where the console has none."""
    try:
        address = reverse("admin:docs", args=("backups",))
    except NoReverseMatch:
        return ""
    return f"{address}#{anchor}" if anchor else address


def kind_label(kind: str) -> str:
    """A source's kind as people say it."""
    return kinds.get(kind).label if kind in kinds else kind


def trigger_label(record: BackupRecord | ProofRun) -> str:
    return str(record.get_trigger_display())


def sizes(plain: int, stored: int) -> str:
    """``20 MiB → 4.1 MiB``: what was saved, and what it takes in the store."""
    return f"{human_bytes(plain)} → {human_bytes(stored)}" if plain or stored else "–"


def ratio(plain: int, stored: int) -> str:
    """How much smaller the stored bytes are: ``4.9 × smaller``; "" where that says nothing."""
    return f"{plain / stored:.1f} × smaller" if stored and plain > stored else ""


def moment(at: datetime | None) -> str:
    """A time for a sentence: ``2026-11-23 02:00 UTC``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "–"


def took(started: datetime | None, ended: datetime | None) -> str:
    """How long something ran; "" where it did not."""
    if started is None or ended is None:
        return ""
    return human_seconds(max(0.0, (ended - started).total_seconds()))


def people_words(summary: Mapping[str, Any]) -> str:
    """``{"tables": 12, "rows": 53412}`` as ``12 tables, 53 412 rows``: what there are few of first.

    Sizes and durations are left out: the page has them in places of their own.
    """
    counts = [
        (value, name)
        for name, value in summary.items()
        if isinstance(value, int) and not isinstance(value, bool) and name != "bytes" and not name.endswith("_seconds")
    ]
    return ", ".join(_count_words(value, name.replace("_", " ")) for value, name in sorted(counts))


def _count_words(value: int, name: str) -> str:
    return f"1 {name.removesuffix('s')}" if value == 1 else f"{value:,} {name}".replace(",", "\u202f")


def findings_shown(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings for a template, what is wrong first."""
    order = {"fail": 0, "warn": 1}
    ranked = sorted(findings, key=lambda found: order.get(found.status, 2))
    return [{"badge": state_badge(found.status, FINDINGS), "detail": found.detail} for found in ranked]


def small(text: object) -> SafeString:
    """A second line of a cell."""
    return format_html('<small class="zt-line zt-muted-text">{}</small>', text) if text else SafeString("")


def when_cell(at: datetime | None, note: str = "") -> SafeString:
    return format_html("{}{}", since(at), small(note))
