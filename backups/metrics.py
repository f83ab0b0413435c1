"""What backups count, and what a scrape reads of them from the rows: one query per table, none per plan."""

from __future__ import annotations

from controlplane.monitoring import registry

lease_lost = registry.counter("zantara_backup_lease_lost_total")
runs = registry.counter("zantara_backup_runs_total")
