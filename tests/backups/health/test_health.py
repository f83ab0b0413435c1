"""The health report, the probe, the metrics: what rows say about how backups stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from backups import health, metrics
from backups.health import health_report
from backups.models import Artifact, BackupPlan, BackupRecord, PlanState, StorageTarget, TargetState
from controlplane.kernel import clock
from controlplane.kernel.registry import probes
from controlplane.monitoring.registry import collectors
from tests.backups import factories

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def now() -> datetime:
    return clock.now()


@pytest.fixture
def plan(tmp_path: Path, now: datetime) -> BackupPlan:
    """A plan that is well in every respect."""
    plan = factories.plan_of(factories.local_target(tmp_path / "store", name="disk"), name="nightly")
    record = factories.record_of(plan, at=now - 5 * HOUR)
    factories.artifact_of(record, name="db", l3_at=now - 4 * HOUR, restore_seconds=12.5)
    factories.artifact_of(record, name="files", l2_at=now - 3 * HOUR)
    seen(plan.target, now)
    return plan


def seen(target: StorageTarget, now: datetime, **columns: Any) -> TargetState:
    values = {"checked_at": now, "reachable": True, "free_bytes": 50, "total_bytes": 100, **columns}
    return TargetState.objects.update_or_create(target=target, defaults=values)[0]


def found(now: datetime) -> dict[str, tuple[str, str]]:
    return {check["name"]: (check["status"], check["summary"]) for check in health_report(now)["checks"]}


def test_a_system_that_is_well_passes_in_every_check(plan: BackupPlan, now: datetime) -> None:
    report = health_report(now)
    assert report["status"] == "pass", report
    assert {check["name"] for check in report["checks"]} == {
        "storage:disk", "space:disk", "orphans:disk", "uploads:disk",
        "backup:nightly", "proof:nightly", "compression:nightly",
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == report
    assert found(now)["backup:nightly"] == ("pass", "the last restore point is 5 h old")
    assert found(now)["proof:nightly"] == ("pass", "last proven 4 h ago"), "the older of its two artifacts"
    assert health.probe_backups().status == "pass"


def free(share: int) -> Callable[[BackupPlan, datetime], object]:
    return lambda plan, now: seen(plan.target, now, free_bytes=share, total_bytes=1000)


WRONG: list[tuple[Callable[[BackupPlan, datetime], object], str, str, str]] = [
    (lambda p, now: seen(p.target, now, reachable=False, message="no route"), "storage:disk", "fail", "no route"),
    (lambda p, now: seen(p.target, now - HOUR), "storage:disk", "unknown", "was last looked at"),
    (lambda p, _: TargetState.objects.all().delete(), "storage:disk", "unknown", "has not been looked at"),
    (free(100), "space:disk", "warn", "10%"),
    (lambda p, now: seen(p.target, now, orphan_sets=2), "orphans:disk", "warn", "2 sets in the store have no record"),
    (lambda p, now: seen(p.target, now, missing_sets=1), "orphans:disk", "fail", "not in the store any more"),
    (lambda p, now: seen(p.target, now, stale_uploads=3), "uploads:disk", "warn", "3 unfinished uploads"),
    (
        lambda p, now: BackupRecord.objects.update(committed_at=now - 27 * HOUR),
        "backup:nightly", "warn", "27 h old, of 26 h allowed",
    ),
    (lambda p, _: BackupRecord.objects.all().delete(), "backup:nightly", "warn", "no restore point yet"),
    (lambda p, _: BackupRecord.objects.update(only_sources=["db"]), "backup:nightly", "warn", "no restore point yet"),
    (lambda p, _: Artifact.objects.filter(name="db").update(l3_at=None), "proof:nightly", "warn", "was ever read"),
    (lambda p, now: Artifact.objects.update(l3_at=now - 200 * HOUR, l2_at=None), "proof:nightly", "warn", "200 h ago"),
    (
        lambda p, now: Artifact.objects.filter(name="db").update(damaged_at=now, damage="bit"),
        "damage:nightly", "fail", "db in",
    ),
    (lambda p, _: BackupPlan.objects.update(compress=False), "compression:nightly", "warn", "off"),
    (
        lambda p, now: PlanState.objects.create(plan=p, retention_frozen_at=now, retention_frozen_reason="-60 %"),
        "retention:nightly", "warn", "-60 %",
    ),
    (
        lambda p, now: factories.record_of(p, state="deleting", at=now, delete_attempts=3, delete_error="read-only"),
        "deletion", "warn", "read-only",
    ),
    (lambda p, _: BackupPlan.objects.update(enabled=False), "plans", "warn", "nothing is backed up"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "name", "status", "said"), WRONG)
def test_each_thing_that_may_be_wrong_is_told_with_a_remedy(
    plan: BackupPlan,
    now: datetime,
    spoil: Callable[[BackupPlan, datetime], object],
    name: str,
    status: str,
    said: str,
) -> None:
    spoil(plan, now)
    report = health_report(now)
    check = next(check for check in report["checks"] if check["name"] == name)
    assert (check["status"], said in check["summary"]) == (status, True), check
    assert check["remedy"]
    assert report["status"] != "pass"
    assert report["checks"][0]["status"] == report["status"], "what is worst comes first"
    assert health.probe_backups().status == ("unknown" if status == "unknown" else "warn")


def test_eleven_percent_free_is_healthy_and_a_bucket_is_never_full(plan: BackupPlan, now: datetime) -> None:
    free(110)(plan, now)
    assert found(now)["space:disk"][0] == "pass"
    seen(plan.target, now, free_bytes=None, total_bytes=None)
    assert "space:disk" not in found(now)


def test_without_an_identity_a_proof_is_not_possible_and_not_overdue(plan: BackupPlan, now: datetime) -> None:
    Artifact.objects.update(l2_at=None, l3_at=None)
    record = BackupRecord.objects.get()
    factories.proof_of(record, level=3, state="not_possible", at=now - HOUR)
    factories.proof_of(record, level=0, state="passed", at=now)
    assert found(now)["proof:nightly"] == ("pass", "not possible: no identity here can open the sets")
    factories.proof_of(record, level=2, state="failed", at=now)
    assert found(now)["proof:nightly"][0] == "warn"


def test_what_everybody_may_read_names_no_path_and_no_error(plan: BackupPlan, now: datetime, client: Client) -> None:
    seen(plan.target, now, reachable=False, message="https://secret-host:9000 refused key AKIA123")
    result = health.probe_backups()
    assert result.summary == "to be looked at: storage:disk"
    assert "secret-host" not in result.summary + result.remedy


def test_the_probe_warns_and_never_takes_the_service_out() -> None:
    assert probes.get("backups") is health.PROBE
    assert not health.PROBE.critical


def test_the_probe_asks_no_store(plan: BackupPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the store was asked")

    monkeypatch.setattr("backups.storage.targets.open_target", never)
    assert health.probe_backups().status == "pass"


# --- metrics ---------------------------------------------------------------------------------------------------------


def scraped() -> dict[tuple[str, ...], float]:
    return {(one.name, *one.labels): one.value for one in metrics.readings()}


def test_a_scrape_reads_the_standing_of_each_plan(plan: BackupPlan, now: datetime) -> None:
    record = BackupRecord.objects.get()
    record.plain_bytes, record.compressed_bytes, record.stored_bytes = 300, 200, 201
    record.started_at = now - 5 * HOUR - timedelta(seconds=90)
    record.save()
    seen(plan.target, now, orphan_sets=2, missing_sets=1)
    assert record.committed_at is not None
    assert scraped() == {
        ("zantara_backup_rpo_breach", "nightly"): 0.0,
        ("zantara_backup_last_committed_timestamp_seconds", "nightly"): record.committed_at.timestamp(),
        ("zantara_backup_last_verified_timestamp_seconds", "nightly"): (now - 4 * HOUR).timestamp(),
        ("zantara_backup_duration_seconds", "nightly"): 90.0,
        ("zantara_backup_bytes", "nightly", "plain"): 300,
        ("zantara_backup_bytes", "nightly", "compressed"): 200,
        ("zantara_backup_bytes", "nightly", "stored"): 201,
        ("zantara_backup_drill_restore_seconds", "nightly", "db"): 12.5,
        ("zantara_backup_orphans", "disk", "set_without_record"): 2,
        ("zantara_backup_orphans", "disk", "record_without_set"): 1,
    }
    assert collectors.get("backups") is metrics.readings


def test_a_plan_without_a_set_is_in_breach_and_has_no_other_figures(tmp_path: Path) -> None:
    factories.plan_of(factories.local_target(tmp_path / "store"), name="new")
    assert scraped() == {("zantara_backup_rpo_breach", "new"): 1.0}


def test_a_scrape_takes_the_same_few_queries_however_many_sets_there_are(plan: BackupPlan, now: datetime) -> None:
    for day in range(1, 40):
        record = factories.record_of(plan, at=now - timedelta(days=day))
        factories.artifact_of(record, l2_at=now)
    with CaptureQueriesContext(connection, ) as queries:  # fmt: skip
        list(metrics.readings())
    assert len(queries) == 5
