"""Plans in the admin: their times become rows of beat, and their rules are judged before they are saved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyrage
import pytest
import time_machine
from django.test import Client
from django_celery_beat.models import PeriodicTask
from pytest_django import DjangoAssertNumQueries

from backups import beat
from backups.models import BackupPlan, BackupRecord
from controlplane.kernel import clock

from . import rows
from .pages import change, part, text_of

LIST = "/admin/backups/backupplan/"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def typed(**values: Any) -> dict[str, Any]:
    sources = values.pop("sources", None) or [source.pk for source in rows.make_sources()]
    return {
        "name": "nightly", "description": "", "enabled": "on", "sources": sources, "target": rows.make_target().pk,
        "cron": "0 2 * * *", "zone": "UTC", "scheduled": "on",
        "drill_cron": "0 4 * * 0", "drill_zone": "UTC", "drill_scheduled": "on",
        "keep_last": "0", "keep_hourly": "0", "keep_daily": "0", "keep_weekly": "0", "keep_monthly": "0",
        "keep_yearly": "0", "keep_within_days": "30", "compress": "on", "compression_level": "3",
        "extra_recipients": "", "stall_seconds": "300", "rpo_hours": "26", "verify_full_days": "30", **values,
    }  # fmt: skip


def task_of(plan: BackupPlan) -> PeriodicTask:
    plan.refresh_from_db()
    assert plan.schedule is not None
    return plan.schedule


def test_a_new_plan_gets_its_rows_of_beat(admin: Client) -> None:
    answer = admin.post(f"{LIST}add/", typed(cron="30 1 * * 1-5", zone="Europe/Rome"))
    assert answer.status_code == 302
    plan = BackupPlan.objects.get()
    assert plan.sources.count() == len(rows.PARTS)
    assert beat.read_schedule(plan) == beat.Times("30 1 * * 1-5", "Europe/Rome", True)
    assert beat.read_drill_schedule(plan) == beat.Times("0 4 * * 0", "UTC", True)
    assert task_of(plan).task == "backups.run_plan"


def test_the_form_shows_beats_row_and_changes_it(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    beat.write_schedule(plan, beat.Times("15 3 * * *", "Europe/Rome"))
    initial = admin.get(change("backupplan", plan.pk)).context["adminform"].form.initial
    assert (initial["cron"], initial["zone"], initial["scheduled"]) == ("15 3 * * *", "Europe/Rome", True)
    pk = task_of(plan).pk
    admin.post(change("backupplan", plan.pk), typed(cron="0 5 * * *", zone="", scheduled=""))
    plan.refresh_from_db()
    assert beat.read_schedule(plan) == beat.Times("0 5 * * *", "UTC", False)
    assert task_of(plan).pk == pk


def test_a_save_that_does_not_touch_the_times_leaves_beats_row_alone(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    task = task_of(plan)
    task.queue = "special"
    task.save()
    admin.post(change("backupplan", plan.pk), typed(description="changed"))
    assert task_of(plan).queue == "special"


def test_a_plan_whose_row_of_beat_was_deleted_gets_a_new_one(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    PeriodicTask.objects.all().delete()
    admin.post(change("backupplan", plan.pk), typed())
    assert beat.read_schedule(BackupPlan.objects.get()) == beat.Times("0 2 * * *", "UTC", True)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"cron": "every night"}, "cron"),
        ({"cron": "99 * * * *"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"zone": "Middle/Earth"}, "zone"),
        ({"drill_cron": "x"}, "drill_cron"),
        ({"extra_recipients": "age1nonsense"}, "extra_recipients"),
        ({"compression_level": "25"}, "compression_level"),
        ({"keep_within_days": "0"}, "__all__"),
        ({"name": "Not A Slug"}, "name"),
        ({"target": ""}, "target"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_saved(admin: Client, values: dict[str, str], field: str) -> None:
    answer = admin.post(f"{LIST}add/", typed(**values))
    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors
    assert (BackupPlan.objects.count(), PeriodicTask.objects.filter(task__startswith="backups.").count()) == (0, 0)


def test_a_plan_without_a_time_may_run_by_hand_alone(admin: Client) -> None:
    assert admin.post(f"{LIST}add/", typed(cron="", scheduled="", drill_cron="", drill_scheduled="")).status_code == 302
    plan = BackupPlan.objects.get()
    assert (plan.schedule, plan.drill_schedule) == (None, None)
    assert "no schedule" in text_of(admin.get(LIST))


def test_more_recipients_are_age_keys_one_a_line(admin: Client) -> None:
    keys = [str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2)]
    admin.post(f"{LIST}add/", typed(extra_recipients=f"  {keys[0]} \n\n{keys[1]}"))
    assert BackupPlan.objects.get().extra_recipients == "\n".join(keys)


def test_a_deleted_plan_takes_its_rows_of_beat_along_and_leaves_its_records(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    record = rows.make_set(plan)
    admin.post(f"{LIST}{plan.pk}/delete/", {"post": "yes"})
    assert (BackupPlan.objects.count(), PeriodicTask.objects.filter(task__startswith="backups.").count()) == (0, 0)
    assert BackupRecord.objects.get(pk=record.pk).plan_name == "nightly"
    other = rows.make_plan("other")
    admin.post(LIST, {"action": "delete_selected", "_selected_action": [other.pk], "post": "yes"})
    assert (BackupPlan.objects.count(), PeriodicTask.objects.filter(task__startswith="backups.").count()) == (0, 0)


# --- what the form asks while it is filled in ------------------------------------------------------


@time_machine.travel(NOON, tick=False)
def test_the_next_five_runs_are_shown_while_the_cron_is_typed(viewer: Client) -> None:
    answer = text_of(viewer.get(f"{LIST}when/?cron=0 2 * * *&zone=Europe/Rome"))
    assert answer.startswith("At 02:00 (Europe/Rome) Tue 24 Nov 2026 02:00 CET (in 13 h)")
    assert answer.count("CET") == 5
    assert "Sun 29 Nov 2026" in text_of(viewer.get(f"{LIST}when/?drill_cron=0 4 * * 0&drill_zone="))
    assert "There is no time zone" in text_of(viewer.get(f"{LIST}when/?cron=0 2 * * *&zone=Nowhere"))
    assert "it never runs by itself" in text_of(viewer.get(f"{LIST}when/?cron="))


@time_machine.travel(datetime(2026, 3, 27, 12, tzinfo=UTC), tick=False)
def test_the_preview_says_what_a_change_of_clocks_does(viewer: Client) -> None:
    shown = text_of(viewer.get(f"{LIST}when/?cron=30 2 * * *&zone=Europe/Rome"))
    assert "02:30 does not exist on this day (clocks go forward): runs at 03:30." in shown


def judged(client: Client, plan: BackupPlan, **rules: int) -> Any:
    return client.post(f"{LIST}{plan.pk}/retention/", {name: rules.get(name, 0) for name in BackupPlan.RULES})


@time_machine.travel(NOON, tick=False)
def test_the_rules_as_typed_are_judged_per_record_with_reasons_and_nothing_is_saved(admin: Client) -> None:
    plan = rows.make_plan(keep_within_days=30)
    sets = [rows.make_set(plan, NOON - timedelta(days=day, hours=10), level=2 if day == 4 else 0) for day in range(6)]
    pinned = sets[5]
    BackupRecord.objects.filter(pk=pinned.pk).update(pinned_at=NOON, pin_reason="migration")
    answer = judged(admin, plan, keep_last=2)
    lines = {
        record.name: part(answer, rf'<tr data-keep="\w+"><th scope="row"><a[^>]*>{record.name}</a>.*?</tr>')
        for record in sets
    }
    kept = [("Kept" in lines[record.name]) for record in sets]
    assert kept == [True, True, False, False, True, True]
    assert "last verified" in lines[sets[4].name]
    assert "pinned" in lines[pinned.name]
    assert "no rule wants it" in lines[sets[2].name]
    assert "4 kept, 2 deleted, 54 MiB freed. Nothing is saved yet." in text_of(answer)
    plan.refresh_from_db()
    assert (plan.keep_last, plan.keep_within_days) == (0, 30)
    assert set(BackupRecord.objects.values_list("state", flat=True)) == {"committed"}


def test_rules_that_keep_nothing_or_are_no_numbers_are_refused_in_words(admin: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan)
    assert "would keep nothing" in text_of(judged(admin, plan))
    answer = admin.post(f"{LIST}{plan.pk}/retention/", {**dict.fromkeys(BackupPlan.RULES, 0), "keep_last": "many"})
    assert "Keep last" in text_of(answer)


def test_the_judgement_is_asked_by_post_and_by_those_who_may_look(admin: Client, db: None) -> None:
    from tests.console.people import person, signed_in

    plan = rows.make_plan()
    assert admin.get(f"{LIST}{plan.pk}/retention/").status_code == 405
    assert "no committed set yet" in text_of(judged(admin, plan, keep_last=1))
    assert judged(signed_in(person("")), plan, keep_last=1).status_code == 403


# --- the list, and who may -------------------------------------------------------------------------


def test_the_list_says_when_it_ran_when_it_was_proven_and_what_it_keeps(admin: Client) -> None:
    plan = rows.make_plan(keep_within_days=30, keep_monthly=6)
    rows.make_set(
        plan, clock.now() - timedelta(hours=5, minutes=2), level=3, proven_at=clock.now() - timedelta(hours=2)
    )
    shown = text_of(admin.get(LIST))
    assert "zantara 3 sources → local At 02:00 (UTC) in" in shown
    assert "5 h ago 2 h ago 1 set 30 days, 6 monthly On" in shown


def test_the_list_says_how_much_its_retention_has_freed(admin: Client) -> None:
    plan = rows.make_plan(keep_within_days=30)
    rows.make_set(plan)
    for days, freed in ((40, 3 * 1024**2), (41, 5 * 1024**2)):
        rows.make_record(plan, clock.now() - timedelta(days=days), state="deleted", freed_bytes=freed)
    assert "1 set 30 days 2 deleted so far, 8 MiB freed" in text_of(admin.get(LIST))


def test_the_list_costs_the_same_queries_for_one_plan_and_for_ten(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    rows.make_set(rows.make_plan())
    admin.get(LIST)
    with django_assert_num_queries(5):
        admin.get(LIST)
    for number in range(9):
        rows.make_set(rows.make_plan(f"plan-{number}"))
    with django_assert_num_queries(5):
        admin.get(LIST)


def test_the_name_stays_once_sets_bear_it(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    admin.post(change("backupplan", plan.pk), typed(name="renamed"))
    plan.refresh_from_db()
    assert plan.name == "renamed"
    rows.make_set(plan)
    admin.post(change("backupplan", plan.pk), typed(name="again", description="but this changes"))
    plan.refresh_from_db()
    assert (plan.name, plan.description) == ("renamed", "but this changes")


def test_a_change_is_in_the_history_by_name(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    admin.post(change("backupplan", plan.pk), typed(keep_within_days="7"))
    shown = text_of(admin.get(f"{LIST}{plan.pk}/history/"))
    assert "root changed it" in shown
    assert "30 → 7" in shown


def test_the_history_names_sources_and_a_revert_brings_them_back(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    first, *_ = rows.make_sources()
    admin.post(change("backupplan", plan.pk), typed(description="all of it"))
    admin.post(change("backupplan", plan.pk), typed(description="less", sources=[first.pk]))
    assert list(plan.sources.all()) == [first]
    page = admin.get(f"{LIST}{plan.pk}/history/")
    assert "configuration" in text_of(page)
    before = plan.history.filter(description="all of it").last()
    answer = admin.post(f"{LIST}{plan.pk}/history/{before.history_id}/revert/")
    assert answer.status_code == 302
    plan.refresh_from_db()
    assert (plan.description, plan.sources.count()) == ("all of it", len(rows.PARTS))
    assert beat.read_schedule(plan) is not None


def test_a_deleted_plan_is_brought_back_from_its_history_without_times(admin: Client) -> None:
    plan = rows.make_plan("nightly")
    pk = plan.pk
    admin.post(f"{LIST}{pk}/delete/", {"post": "yes"})
    last = BackupPlan.history.filter(id=pk, history_type="~").first() or BackupPlan.history.filter(id=pk).last()
    admin.post(f"{LIST}{pk}/history/{last.history_id}/revert/")
    revived = BackupPlan.objects.get()
    assert (revived.pk, revived.name, revived.schedule) == (pk, "nightly", None)
    assert revived.sources.count() == len(rows.PARTS)


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_only_administrators_change_plans_the_others_look(group: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(group)
    plan = rows.make_plan("nightly")
    page = client.get(change("backupplan", plan.pk))
    assert page.status_code == 200
    assert "At 02:00 (UTC)" in text_of(page)
    assert client.post(change("backupplan", plan.pk), typed(keep_within_days="1")).status_code == 403
    plan.refresh_from_db()
    assert plan.keep_within_days == 30
