"""The plan that an installation begins with."""

from __future__ import annotations

from typing import Any

import pytest

from backups import beat, keys
from backups.models import BackupPlan, BackupRecord, BackupSource, StorageTarget
from backups.seed import seed
from controlplane.kernel.env import Env

pytestmark = pytest.mark.django_db(transaction=True)

STACK = Env({"ZANTARA_EDGE_PORT": "3000"})
ALWAYS = {"control-plane-database", "configuration", "user-data", "logs"}


@pytest.fixture(autouse=True)
def with_keys() -> None:
    keys.ensure_keys()


def test_the_first_seed_makes_everything_and_the_second_nothing() -> None:
    made = seed(env=STACK)
    assert made.changed
    plan = BackupPlan.objects.get()
    assert (plan.name, plan.target.name, plan.target.path, plan.keep_within_days) == ("zantara", "local", "backups", 30)
    assert set(plan.sources.values_list("name", flat=True)) == ALWAYS | {"zantara-memory-vectors"}
    assert beat.read_schedule(plan) == beat.Times("0 2 * * *", "UTC", enabled=True)
    assert beat.read_drill_schedule(plan) is not None
    record = BackupRecord.objects.get()
    assert (record.name, record.trigger, record.state) == (made.first_run, "first", "queued")
    assert record.due_at > record.created_at, "the services that it saves are still starting"
    assert not seed(env=STACK).changed
    assert BackupRecord.objects.count() == 1


def test_chroma_joins_the_plan_when_its_address_is_set(settings: Any) -> None:
    settings.ZANTARA_CHROMA_URL = None
    seed(env=STACK, first_run=False)
    settings.ZANTARA_CHROMA_URL = "http://127.0.0.1:8001"
    assert seed(env=STACK, first_run=False).sources == ("chroma",)
    plan = BackupPlan.objects.get()
    assert plan.sources.filter(name="chroma", settings__url="http://127.0.0.1:8001").exists()


def test_without_a_managed_service_there_are_no_vectors_of_one() -> None:
    seed(env=Env({}), first_run=False)
    assert set(BackupPlan.objects.get().sources.values_list("name", flat=True)) == ALWAYS


def test_what_an_operator_changed_or_deleted_stays_so() -> None:
    seed(env=STACK, first_run=False)
    plan = BackupPlan.objects.get()
    beat.write_schedule(plan, beat.Times("30 4 * * *", "Europe/Berlin"))
    plan.keep_within_days = 90
    plan.save()
    plan.sources.remove(BackupSource.objects.get(name="logs"))
    BackupSource.objects.get(name="user-data").delete()
    target = StorageTarget.objects.get()
    target.path = "elsewhere"
    target.save()
    assert not seed(env=STACK, first_run=False).changed
    plan = BackupPlan.objects.get()
    assert (plan.keep_within_days, plan.target.path) == (90, "elsewhere")
    assert beat.read_schedule(plan) == beat.Times("30 4 * * *", "Europe/Berlin")
    assert set(plan.sources.values_list("name", flat=True)) == {
        "control-plane-database", "configuration", "zantara-memory-vectors",
    }  # fmt: skip
    beat.delete_schedules(plan)
    plan.delete()
    assert not seed(env=STACK).changed
    assert not BackupPlan.objects.exists()
    assert not BackupRecord.objects.exists()


def test_a_plan_that_has_run_is_not_asked_again() -> None:
    seed(env=STACK, first_run=False)
    assert not BackupRecord.objects.exists()
    assert seed(env=STACK).first_run == BackupRecord.objects.get().name
    BackupRecord.objects.update(state="failed")
    assert seed(env=STACK).first_run == ""
