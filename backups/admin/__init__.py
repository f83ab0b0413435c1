"""The operator's side of backups: the history, plans, sources, targets, proofs, restores and the wizard."""

from __future__ import annotations

from . import navigation, plans, proofs, records, restores, services, sources, targets

__all__ = ["plans", "proofs", "records", "restores", "services", "sources", "targets"]

navigation.register()
