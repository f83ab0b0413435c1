"""What Django's admin finds by itself; the pages of other rooms are imported from here."""

from __future__ import annotations

from controlplane.schedules import admin as _schedules  # noqa: F401
