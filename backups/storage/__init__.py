"""Where sets are kept. ``open_target`` gives the store of a row; nothing else knows which kinds there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backups.models import StorageTarget

    from .base import Storage


def open_target(target: StorageTarget) -> Storage:
    """The store that this row describes. Asks it nothing yet; StorageRefused where the row makes no sense."""
    from .targets import open_target as really

    return really(target)
