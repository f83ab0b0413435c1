"""Log files, rotated ones too, up to an age. They come back beside the living ones unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from .base import Capture, Finding, Place, Restorer, SettingField, Source
from .files import check_tree, clean_path, tree_bytes
from .tar_tree import Scan, capture_tree, clean_patterns, inspect_tree, scan
from .tree_restore import TreeRestorer, drill_tree

DEFAULT_PATTERNS = ("*.log", "*.log.*", "*.gz")
DEFAULT_DAYS = 30


class LogsSource(Source):
    kind = "logs"
    label = "Logs"
    description = "Log files with their rotated ones, up to an age. A file that grows while it is read is normal."
    fields = (
        SettingField(
            "base", "Directory", "path",
            "Empty: logs in the data directory. Relative ones are in the data directory.",
        ),
        SettingField(
            "patterns", "Patterns", "lines", "One per line, relative to the directory; **/*.log also looks below it.",
            default="\n".join(DEFAULT_PATTERNS),
        ),
        SettingField("exclude", "Leave out", "lines", "Patterns of paths that are not saved; * also matches slashes."),
        SettingField(
            "max_age_days", "Oldest", "integer", "Days since the last line. 0: any age.", default=DEFAULT_DAYS
        ),
        SettingField(
            "restore_to", "Restore to", "path",
            "Empty: a new directory beside the logs. “.”: over the live ones. Relative ones are in the directory.",
        ),
    )  # fmt: skip
    group = "logs"
    file_name = "logs.tar"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        days = settings.get("max_age_days", DEFAULT_DAYS)
        try:
            days = int(days)
        except (TypeError, ValueError):
            days = -1
        if not 0 <= days <= 36500:
            raise Refused("max_age_days is a number of days from 0 to 36500.", remedy="Write 0 for any age.")
        return {
            "base": clean_path("base", settings.get("base", "")),
            "patterns": clean_patterns("patterns", settings.get("patterns"), DEFAULT_PATTERNS),
            "exclude": clean_patterns("exclude", settings.get("exclude")),
            "max_age_days": days,
            "restore_to": clean_path("restore_to", settings.get("restore_to", "")),
        }

    @property
    def base(self) -> Path:
        return Path(django_settings.ZANTARA_DATA_DIR) / (self.settings.get("base", "") or "logs")

    def scan(self, now: datetime) -> Scan:
        """What a capture at ``now`` would read."""
        days = int(self.settings.get("max_age_days", DEFAULT_DAYS))
        return scan(
            self.base,
            clean_patterns("patterns", self.settings.get("patterns"), DEFAULT_PATTERNS),
            exclude=clean_patterns("exclude", self.settings.get("exclude")),
            newer_than=(now - timedelta(days=days)).timestamp() if days else None,
        )

    def check(self) -> list[Finding]:
        return check_tree(self.base, lambda: self.scan(clock.now()))

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        return capture_tree(self.base, self.scan(now), scratch, growth_is_normal=True)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        return inspect_tree(chunks, expectations)

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        return drill_tree(chunks, expectations, place)

    def restorer(self, place: Place) -> Restorer:
        target = self.settings.get("restore_to", "")
        beside = self.base.with_name(f"{self.base.name}-restored") / place.token
        return TreeRestorer(self.base / target if target else beside, place)

    def expected_bytes(self) -> int | None:
        return tree_bytes(self.scan(clock.now()))

    @classmethod
    def stock_command(cls) -> str:
        # Without the last option tar ends before the padding does, and the pipe's exit code says that zstd failed.
        return "tar --extract --preserve-permissions --ignore-zeros"
