"""The catalogue: what differs between a store and the rows, and rows made of the store alone."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.forms.models import model_to_dict

from backups import catalogue, keys
from backups.errors import StorageUnavailable
from backups.models import Artifact, BackupEvent, BackupPlan, BackupRecord, StorageTarget
from backups.storage import open_target
from controlplane.kernel import clock
from tests.backups.factories import committed_set, local_target, plan_of, record_of, run_now, short
from tests.backups.servers.faults import fault_proxy
from tests.backups.servers.s3 import S3Server

pytestmark = pytest.mark.django_db

#: What a rebuilt row cannot know, or says in its own way.
ITS_OWN = {"id", "trigger", "attempt", "due_at", "created_at", "started_at", "finished_at"}


def forget(record: BackupRecord) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Delete the record's rows, as if the database were lost; what they said."""
    said = {name: value for name, value in model_to_dict(record).items() if name not in ITS_OWN}
    said |= {"committed_at": record.committed_at, "prefix": record.prefix}
    artifacts = [
        {name: value for name, value in model_to_dict(artifact).items() if name not in {"id", "record"}}
        for artifact in record.artifacts.all()
    ]
    record.artifacts.all().delete()
    BackupEvent.objects.filter(subject=record)._raw_delete("default")  # type: ignore[attr-defined]
    record.delete()
    return said, artifacts


def test_rows_that_were_lost_are_made_again_and_say_the_same(tmp_path: Path) -> None:
    record = committed_set(tmp_path, scheduled_for=clock.now().replace(microsecond=0))
    target, name = record.target, record.name
    said, artifacts = forget(record)
    found = catalogue.reconcile(target, clock.now())
    assert [one.prefix for one in found.orphan_sets] == [said["prefix"]]

    rebuilt = catalogue.rebuild(target, clock.now())

    assert (rebuilt.added, rebuilt.known, rebuilt.unreadable) == ((name,), 0, {})
    again = BackupRecord.objects.get(name=name)
    assert again.trigger == "catalogue"
    assert again.state == "committed"
    assert {key: getattr(again, key) for key in ("committed_at", "prefix")} == {
        key: said[key] for key in ("committed_at", "prefix")
    }
    columns = model_to_dict(again)
    assert {key: columns[key] for key in said if key in columns} == {key: said[key] for key in said if key in columns}
    assert [
        {key: value for key, value in model_to_dict(artifact).items() if key not in {"id", "record"}}
        for artifact in again.artifacts.all()
    ] == artifacts
    (event,) = again.events.all()
    assert (event.from_state, event.to_state) == ("committed", "committed")
    assert "Found in the store" in event.reason


def test_a_rebuild_twice_adds_once(tmp_path: Path) -> None:
    record = committed_set(tmp_path)
    target = record.target
    forget(record)
    catalogue.rebuild(target, clock.now())
    rebuilt = catalogue.rebuild(target, clock.now())
    assert (rebuilt.added, rebuilt.known) == ((), 1)
    assert BackupRecord.objects.filter(target=target).count() == 1
    assert Artifact.objects.filter(record__target=target).count() == 1
    found = catalogue.reconcile(target, clock.now())
    assert (found.orphan_sets, found.missing_sets, found.leftovers) == ((), (), ())


def test_the_plan_is_found_by_its_name_and_is_not_needed(tmp_path: Path) -> None:
    record = committed_set(tmp_path)
    target, plan_name = record.target, record.plan_name
    forget(record)
    BackupPlan.objects.filter(name=plan_name).delete()
    catalogue.rebuild(target, clock.now())
    again = BackupRecord.objects.get(target=target)
    assert (again.plan, again.plan_name) == (None, plan_name)


def test_a_name_that_is_taken_is_not_taken_twice(tmp_path: Path) -> None:
    record = committed_set(tmp_path)
    name, target, plan = record.name, record.target, record.plan
    forget(record)
    record_of(plan, name=name, state="failed")
    rebuilt = catalogue.rebuild(target, clock.now())
    assert rebuilt.added == (f"{name}-found-2",)


def test_a_set_that_cannot_be_believed_gets_no_row_and_the_others_do(tmp_path: Path) -> None:
    plan = committed_set(tmp_path).plan
    for _ in range(3):
        run_now(plan)
    target = plan.target
    records = list(BackupRecord.objects.filter(target=target).order_by("pk"))
    whole, changed, foreign, bare = [record.prefix for record in records]
    for record in records:
        forget(record)
    storage = open_target(target)
    storage.put(f"{changed}/manifest.json", storage.get(f"{changed}/manifest.json").replace(b"files", b"filez"))
    storage.put(f"{foreign}/manifest.json", storage.get(f"{whole}/manifest.json"))
    storage.put(f"{foreign}/COMMIT", storage.get(f"{whole}/COMMIT"))
    storage.delete([f"{bare}/COMMIT"])
    rebuilt = catalogue.rebuild(target, clock.now())
    assert len(rebuilt.added) == 1
    assert set(rebuilt.unreadable) == {changed, foreign}
    assert [record.prefix for record in BackupRecord.objects.filter(target=target)] == [whole]
    assert [one.prefix for one in catalogue.reconcile(target, clock.now()).leftovers] == [bare]


def test_a_set_signed_by_an_unknown_key_gets_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = committed_set(tmp_path)
    target, prefix = record.target, record.prefix
    forget(record)
    monkeypatch.setattr(keys, "trusted_keys", dict)
    rebuilt = catalogue.rebuild(target, clock.now())
    assert rebuilt.added == ()
    assert "not trusted" in rebuilt.unreadable[prefix]
    assert not BackupRecord.objects.filter(target=target).exists()


def test_orphans_and_missing_sets_are_told_both_ways(tmp_path: Path) -> None:
    plan = committed_set(tmp_path).plan
    run_now(plan)
    run_now(plan)
    target = plan.target
    kept, lost, orphan = BackupRecord.objects.filter(target=target).order_by("pk")
    lost_prefix, orphan_prefix = lost.prefix, orphan.prefix
    storage = open_target(target)
    storage.delete([info.key for info in storage.list(f"{lost_prefix}/")])
    forget(orphan)
    found = catalogue.reconcile(target, clock.now())
    assert [one.prefix for one in found.orphan_sets] == [orphan_prefix]
    assert found.missing_sets == (lost_prefix,)
    assert found.orphan_sets[0].plan == plan.name
    assert found.orphan_sets[0].objects == 4
    # What is going away is no difference, whether its objects are still there or not.
    for prefix in (kept.prefix, lost_prefix):
        BackupRecord.objects.filter(prefix=prefix).update(state="deleting")
    found = catalogue.reconcile(target, clock.now())
    assert [one.prefix for one in found.orphan_sets] == [orphan_prefix]
    assert found.missing_sets == ()


def test_a_set_whose_row_is_a_tombstone_is_an_orphan(tmp_path: Path) -> None:
    record = committed_set(tmp_path)
    BackupRecord.objects.filter(pk=record.pk).update(state="deleted")
    assert [one.prefix for one in catalogue.reconcile(record.target, clock.now()).orphan_sets] == [record.prefix]


def test_only_objects_named_like_ours_are_looked_at(tmp_path: Path) -> None:
    target = local_target(tmp_path / "store")
    storage = open_target(target)
    for key in ("COMMIT", "sets/COMMIT", "sets/plan/2026/11/COMMIT", "sets/plan/2026/11/not-a-uuid/COMMIT", "other/x"):
        storage.put(key, b"{}")
    assert list(catalogue.scan(storage)) == []


def test_a_store_that_is_away_makes_nothing_seem_missing(tmp_path: Path, rclone_server: S3Server) -> None:
    bucket = rclone_server.make_bucket()
    with fault_proxy(rclone_server.url) as proxy:
        fields = rclone_server.target_fields(bucket, url=proxy.url)
        target = StorageTarget.objects.create(name=f"s3-{short()}", **fields)
        plan = plan_of(target)
        now = clock.now()
        record_of(plan, prefix="sets/p/2026/11/0193f0a0-0000-7000-8000-000000000001", at=now - timedelta(hours=1))
        proxy.on("ListObjects", status=403, code="AccessDenied", times=1000)
        with pytest.raises(Exception, match="AccessDenied"):
            catalogue.reconcile(target, now)
        proxy.assert_all_fired()
        target.endpoint_url = "http://127.0.0.1:9"
        with pytest.raises(StorageUnavailable):
            catalogue.rebuild(target, now)


def test_a_bucket_alone_is_enough(tmp_path: Path, rclone_server: S3Server) -> None:
    target = StorageTarget.objects.create(
        name=f"s3-{short()}", prefix="zantara", **rclone_server.target_fields(rclone_server.make_bucket())
    )
    plan = committed_set(tmp_path).plan
    BackupPlan.objects.filter(pk=plan.pk).update(target=target)
    plan.refresh_from_db()
    record = run_now(plan)
    assert record.state == "committed"
    assert record.target == target
    name, prefix = record.name, record.prefix
    forget(record)
    shutil.rmtree(tmp_path / "source")
    assert catalogue.rebuild(target, clock.now()).added == (name,)
    again = BackupRecord.objects.get(name=name)
    assert (again.prefix, again.target) == (prefix, target)
    assert catalogue.reconcile(target, clock.now()).orphan_sets == ()
