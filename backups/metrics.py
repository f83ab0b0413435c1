"""What backups count, and what a scrape reads of them from the rows: a few queries, however many sets there are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from controlplane.kernel import clock
from controlplane.monitoring import registry
from controlplane.monitoring.registry import Reading

lease_lost = registry.counter("zantara_backup_lease_lost_total")
runs = registry.counter("zantara_backup_runs_total")

STAGES = ("plain_bytes", "compressed_bytes", "stored_bytes")


def readings() -> Iterator[Reading]:
    """The gauges of a scrape. What has never happened is absent, but a plan without any set is in breach."""
    from backups import standing

    now = clock.now()
    plans = standing.plans()
    for plan, newest in plans:
        labels, committed_at = (plan.name,), newest.committed_at if newest else None
        breach = committed_at is None or now - committed_at > timedelta(hours=plan.rpo_hours)
        yield Reading("zantara_backup_rpo_breach", float(breach), labels)
        if newest is None or committed_at is None:
            continue
        yield Reading("zantara_backup_last_committed_timestamp_seconds", committed_at.timestamp(), labels)
        if newest.started_at is not None:
            yield Reading("zantara_backup_duration_seconds", (committed_at - newest.started_at).total_seconds(), labels)
        for stage in STAGES:
            yield Reading("zantara_backup_bytes", getattr(newest, stage), (plan.name, stage.removesuffix("_bytes")))
    proofs = standing.proofs([plan.name for plan, _ in plans])
    for name, proof in proofs.items():
        if proof.verified_at is not None:
            yield Reading("zantara_backup_last_verified_timestamp_seconds", proof.verified_at.timestamp(), (name,))
        for artifact, (_, seconds) in proof.drills.items():
            yield Reading("zantara_backup_drill_restore_seconds", seconds, (name, artifact))
    for target, state in standing.targets():
        if state is not None:
            yield Reading("zantara_backup_orphans", state.orphan_sets, (target.name, "set_without_record"))
            yield Reading("zantara_backup_orphans", state.missing_sets, (target.name, "record_without_set"))


__all__ = ["lease_lost", "readings", "runs"]
