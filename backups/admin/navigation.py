"""Our pages beside those of the models, the start page's card and the steps of the setup."""

from __future__ import annotations

from controlplane.console.base import ConsolePage, pages
from controlplane.kernel.registry import cards, setup_steps

from .card import CARD, STEPS
from .health_page import health_page
from .kit_page import kit_page
from .wizard import choose_page, preview_page

RESTORE = "backups.restore_backup"


def register() -> None:
    """Add them; adding the same again is fine. The sidebar's lines are with the console's own, for their order."""
    for name, route, view, permission in (
        ("backups_health", "backups/health/", health_page, "backups.view_backuprecord"),
        ("backups_recovery_kit", "backups/recovery-kit/", kit_page, "backups.download_recovery_kit"),
        ("backups_restore_choose", "backups/restore/<int:record_id>/", choose_page, RESTORE),
        ("backups_restore_preview", "backups/restore/<int:record_id>/preview/", preview_page, RESTORE),
    ):
        pages.add(name, ConsolePage(name, route, view, permission))
    cards.add(CARD.name, CARD)
    for step in STEPS:
        setup_steps.add(step.name, step)
