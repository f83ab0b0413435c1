"""Free space on the disk: a release is not begun where its build and its backup would not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.kernel.env import parse_size
from controlplane.kernel.errors import Refused
from deployments.pipeline.base import Findings, StepSeen

from .common import ended_otherwise, finding, last_line, split

LEAST_BYTES = 5 * 10**9
PROGRAM = Path(__file__).resolve().parents[1] / "free_space.py"


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """At least 5 GB (10**9 bytes each) must be free. The command, if any, is another size and paths: ``20GB /srv``."""

    name: str = "disk_space"
    label: str = "free disk space (at least 5 GB)"

    def argv(self, command: str) -> Sequence[str]:
        """Our own small program. Refused for a size that is none."""
        parts = list(split(command)) if command.strip() else []
        least = LEAST_BYTES
        if parts and not parts[0].startswith(("/", ".")):
            try:
                least = parse_size(parts.pop(0))
            except ValueError as error:
                raise Refused(f"{error}.", remedy="Write a size and paths: 20GB /srv, or leave it empty.") from None
        return (sys.executable, "-I", str(PROGRAM), str(least), *(parts or ["."]))

    def read(self, output: str, seen: StepSeen) -> Findings:
        """The fullest of the disks."""
        if (otherwise := ended_otherwise(seen)) is not None:
            return otherwise
        disks = [disk for line in output.splitlines() if (disk := _disk(line)) is not None]
        if not disks or seen.exit_code not in (0, 1):
            return finding("unknown", f"The free space could not be read: {last_line(output)}")
        disk = min(disks, key=lambda one: one["free_bytes"])
        free, least = disk["free_bytes"], disk["least_bytes"]
        numbers = {"free_gb": round(free / 1e9, 2), "least_gb": round(least / 1e9, 2)}
        said = f"{free / 1e9:.1f} GB are free at {disk['path']}"
        if free >= least:
            return finding("passed", f"{said}.", numbers)
        return finding("failed", f"{said}, and {least / 1e9:g} GB are wanted: free some space.", numbers)


def _disk(line: str) -> Mapping[str, Any] | None:
    if not line.startswith('{"free_bytes"'):
        return None
    try:
        disk = json.loads(line)
        return {"path": str(disk["path"]), **{name: int(disk[name]) for name in ("free_bytes", "least_bytes")}}
    except (ValueError, KeyError, TypeError):
        return None
