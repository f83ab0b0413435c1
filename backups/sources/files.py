"""Files by patterns: the configuration of a service, or any tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from controlplane.kernel.errors import Refused

from .base import Capture, Finding, Place, Restorer, SettingField, Source
from .tar_tree import Scan, capture_tree, clean_patterns, inspect_tree, scan
from .tree_restore import TreeRestorer, drill_tree

DEFAULT_PATTERNS = (".env", "pyproject.toml", "docker-compose.yml")


class FilesSource(Source):
    kind = "files"
    label = "Files"
    description = "Files and directories by patterns below one directory, for example a service's configuration."
    fields = (
        SettingField(
            "base", "Base directory", "path", "Empty: where manage.py is. Relative ones are below that directory."
        ),
        SettingField(
            "patterns", "Patterns", "lines",
            "One per line, relative to the base directory, with * ? [ ] and **; directories with all below them.",
            default="\n".join(DEFAULT_PATTERNS),
        ),
        SettingField("exclude", "Leave out", "lines", "Patterns of paths that are not saved; * also matches slashes."),
    )  # fmt: skip
    group = "configuration"
    file_name = "files.tar"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        return {
            "base": clean_path("base", settings.get("base", "")),
            "patterns": clean_patterns("patterns", settings.get("patterns"), DEFAULT_PATTERNS),
            "exclude": clean_patterns("exclude", settings.get("exclude")),
        }

    @property
    def base(self) -> Path:
        return Path(django_settings.BASE_DIR) / str(self.settings.get("base", ""))

    def scan(self) -> Scan:
        """What a capture would read now."""
        return scan(
            self.base,
            clean_patterns("patterns", self.settings.get("patterns"), DEFAULT_PATTERNS),
            exclude=clean_patterns("exclude", self.settings.get("exclude")),
        )

    def check(self) -> list[Finding]:
        return check_tree(self.base, self.scan)

    def capture(self, *, now: datetime, scratch: Path) -> AbstractContextManager[Capture]:
        return capture_tree(self.base, self.scan(), scratch)

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        return inspect_tree(chunks, expectations)

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        return drill_tree(chunks, expectations, place)

    def restorer(self, place: Place) -> Restorer:
        return TreeRestorer(self.base, place)

    def expected_bytes(self) -> int | None:
        return tree_bytes(self.scan())

    @classmethod
    def stock_command(cls) -> str:
        # Without the last option tar ends before the padding does, and the pipe's exit code says that zstd failed.
        return "tar --extract --preserve-permissions --ignore-zeros"


def clean_path(name: str, value: object) -> str:
    """A path as text; Refused where it cannot be one."""
    text = str(value or "").strip()
    if "\0" in text or "\n" in text:
        raise Refused(f"{name} is not a path.", remedy="Write one path.")
    return text


def check_tree(base: Path, look: Any) -> list[Finding]:
    """ "Test connection" of a tree: what a capture would take, and what it would warn of."""
    if not base.is_dir():
        return [Finding("fail", f"there is no directory {base}: make it or correct the base directory")]
    found: Scan = look()
    warnings = [Finding("warn", warning) for warning in found.warnings[:20]]
    if not found.files:
        return [Finding("fail", f"no file in {base} matches: correct the patterns"), *warnings]
    return [Finding("pass", f"{found.files} files, {found.bytes} bytes in {base}"), *warnings]


def tree_bytes(found: Scan) -> int:
    """A header for each entry, and contents in blocks of 512."""
    return found.bytes + 768 * len(found.paths)
