from __future__ import annotations

from controlplane.kernel.registry import Probe, ProbeResult


def probe_backups() -> ProbeResult:
    return ProbeResult("pass", "")


PROBE = Probe(name="backups", label="Backups", run=probe_backups, docs="docs/backups.md#health")
