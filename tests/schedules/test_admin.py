"""Beat's schedules in the console: the list, the form, run now, and what may not be deleted."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import time_machine
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks
from pytest_django import DjangoAssertNumQueries

from controlplane.celery import app
from controlplane.kernel.registry import ScheduleSpec
from controlplane.schedules import heartbeat, rows, store
from controlplane.schedules.reconcile import reconcile_schedules
from controlplane.schedules.running import ensure_permissions

pytestmark = pytest.mark.django_db

LIST = "/admin/django_celery_beat/periodictask/"
HEARTBEAT = "controlplane.schedules.heartbeat"


@pytest.fixture
def admin(redis_url: str, client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="a long password"))
    return client


@pytest.fixture
def operator(redis_url: str) -> User:
    user = User.objects.create_user("olga", password="a long password", is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__in=["view_periodictask", "change_periodictask"]))
    return user


def make(name: str = "nightly", **values: Any) -> PeriodicTask:
    if not {"interval", "crontab"} & set(values):
        values["crontab"] = rows.crontab_row(rows.parse("30 3 * * 1"), "Europe/Rome")
    return PeriodicTask.objects.create(**{"name": name, "task": HEARTBEAT, **values})


def form(**values: Any) -> dict[str, Any]:
    return {
        "name": "nightly", "job": HEARTBEAT, "enabled": "on", "description": "", "cron": "", "zone": "", "every": "",
        "period": "minutes", "queue": "", "expire_seconds": "", "start_time_0": "", "start_time_1": "", "args": "[]",
        "kwargs": "{}", **values,
    }  # fmt: skip


def texts(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def change(task: PeriodicTask) -> str:
    return f"{LIST}{task.pk}/change/"


def action_url(task: PeriodicTask) -> str:
    return reverse("admin:django_celery_beat_periodictask_run_row", args=[task.pk])


# --- the list


def test_the_list_says_what_runs_when_and_how_it_went_last(admin: Client) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    with time_machine.travel(now - timedelta(hours=1), tick=False):
        make()
        store.note_start("nightly", task_id="abc", at=now - timedelta(minutes=5), triggered_by="olga")
        store.note_end("nightly", state="failure", duration_seconds=90, error="OSError")
    with time_machine.travel(now, tick=False):
        shown = texts(admin.get(LIST))
    assert "At 03:30, only on Monday" in shown
    assert "Europe/Rome" in shown
    assert "Mon 30 Nov 03:30 CET" in shown
    assert "in 6 d" in shown
    assert "5 min ago" in shown
    assert "failed: OSError, 1 min 30 s" in shown
    assert "by olga" in shown


@pytest.mark.parametrize(("late_by", "mark"), [(10, False), (130, False), (190, True)])
def test_a_row_more_than_two_periods_late_is_marked_overdue(admin: Client, late_by: int, mark: bool) -> None:
    start = datetime(2026, 11, 23, 12, tzinfo=UTC)
    with time_machine.travel(start - timedelta(days=1), tick=False):
        make("minutely", interval=rows.interval_row(1, "minutes"))
    store.note_start("minutely", task_id="x", at=start, triggered_by="")
    with time_machine.travel(start + timedelta(seconds=late_by), tick=False):
        shown = texts(admin.get(LIST))
    assert ("overdue" in shown) is mark


def test_a_row_that_begins_after_the_calendar_ends_does_not_break_the_list(admin: Client) -> None:
    row = make(
        start_time=datetime(9999, 12, 31, 23, 59, tzinfo=UTC), crontab=None, interval=rows.interval_row(5, "days")
    )
    assert "never" in texts(admin.get(LIST))
    assert "It will not run." in texts(admin.get(f"{LIST}{row.pk}/change/"))


def test_a_disabled_row_is_never_overdue_and_a_cron_that_celery_cannot_follow_is_shown_as_broken(
    admin: Client,
) -> None:
    with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False):
        make("old", interval=rows.interval_row(1, "minutes"), enabled=False)
        make("broken", crontab=CrontabSchedule.objects.create(minute="75"))
    shown = texts(admin.get(LIST))
    assert "overdue" not in shown
    assert "disabled" in shown
    assert "Celery cannot follow this cron expression" in shown


def test_the_list_costs_the_same_queries_for_one_row_and_for_forty(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make()
    admin.get(LIST)
    with django_assert_num_queries(5) as few:
        admin.get(LIST)
    for number in range(39):
        make(f"task {number}", interval=rows.interval_row(number + 1, "minutes"))
    with django_assert_num_queries(len(few)):
        assert admin.get(LIST).status_code == 200


def test_enabling_in_the_list_saves_the_row_and_tells_beat_but_leaves_the_systems_own_alone(
    admin: Client, only_heartbeat: ScheduleSpec
) -> None:
    reconcile_schedules()
    fixed, mine = PeriodicTask.objects.get(name="zantara.heartbeat"), make(enabled=False)
    told = PeriodicTasks.last_change()
    ids = {task.name: number for number, task in enumerate(PeriodicTask.objects.order_by("name"))}
    data: dict[str, Any] = {"form-TOTAL_FORMS": len(ids), "form-INITIAL_FORMS": len(ids), "_save": "Save"}
    for task in (fixed, mine):
        data[f"form-{ids[task.name]}-id"] = task.pk
    data[f"form-{ids[mine.name]}-enabled"] = "on"  # and the heartbeat's box is not ticked
    answer = admin.post(LIST, data)
    assert answer.status_code == 302
    mine.refresh_from_db()
    fixed.refresh_from_db()
    assert (mine.enabled, fixed.enabled) == (True, True)
    assert PeriodicTasks.last_change() > told


def test_bulk_actions_save_each_row_and_spare_the_systems_own(admin: Client, only_heartbeat: ScheduleSpec) -> None:
    reconcile_schedules()
    tasks = [make("a"), make("b"), PeriodicTask.objects.get(name="zantara.heartbeat")]
    told = PeriodicTasks.last_change()
    data = {"action": "disable", "_selected_action": [task.pk for task in tasks]}
    shown = texts(admin.post(LIST, data, follow=True))
    assert "2 schedules were disabled." in shown
    assert "“zantara.heartbeat” belongs to the system" in shown
    assert set(PeriodicTask.objects.filter(enabled=True).values_list("name", flat=True)) == {"zantara.heartbeat"}
    assert PeriodicTasks.last_change() > told


# --- the form


def test_a_schedule_is_made_from_a_cron_and_shares_a_row_that_is_there(admin: Client) -> None:
    present = rows.crontab_row(rows.parse("30 3 * * 1"), "Europe/Rome")
    answer = admin.post(f"{LIST}add/", form(cron=" 30 3  * * MON ", zone="Europe/Rome", queue="work"))
    assert answer.status_code == 302, texts(answer)
    task = PeriodicTask.objects.get()
    assert (task.task, task.crontab_id, task.interval_id, task.queue) == (HEARTBEAT, present.pk, None, "work")
    assert CrontabSchedule.objects.count() == 1


def test_an_edit_takes_another_row_counts_from_now_and_leaves_the_shared_one(admin: Client) -> None:
    task, other = make(), make("other")
    task.last_run_at = datetime(2026, 11, 1, tzinfo=UTC)
    task.save()
    answer = admin.post(change(task), form(every="30", period="seconds"))
    assert answer.status_code == 302, texts(answer)
    task.refresh_from_db()
    other.refresh_from_db()
    assert (task.crontab, task.interval.every, task.interval.period) == (None, 30, "seconds")
    assert task.last_run_at is None
    assert other.crontab.minute == "30"


def test_saving_without_a_change_keeps_the_last_run(admin: Client) -> None:
    task = make(last_run_at=datetime(2026, 11, 1, tzinfo=UTC))
    answer = admin.post(change(task), form(cron="30 3 * * 1", zone="Europe/Rome", description="now with words"))
    assert answer.status_code == 302, texts(answer)
    task.refresh_from_db()
    assert (task.description, task.last_run_at) == ("now with words", datetime(2026, 11, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cron": "75 * * * *"}, "minute 75 is outside 0–59."),
        ({"cron": "* * *"}, "this one has 3."),
        ({}, "Give a cron or an interval"),
        ({"cron": "* * * * *", "every": "5"}, "Give either a cron or an interval, not both."),
        ({"cron": "* * * * *", "zone": "Mars/Olympus"}, "There is no time zone “Mars/Olympus”."),
        ({"cron": "* * * * *", "zone": "../../etc/passwd"}, "There is no time zone"),
        ({"every": "0"}, "An interval is at least 1."),
        ({"every": "99999999"}, "An interval is at most"),
        ({"every": "5", "period": "fortnights"}, "fortnights is not one of the available choices"),
        ({"every": "5", "args": "{}"}, "This must be a list"),
        ({"every": "5", "kwargs": "{"}, "This is no JSON"),
        ({"every": "5", "kwargs": '{"plan": NaN}'}, "NaN is no JSON number"),
        ({"every": "5", "start_time_0": "9999-12-31", "start_time_1": "23:59:59"}, "Within a hundred years of now."),
        ({"every": "5", "start_time_0": "0001-01-01", "start_time_1": "00:00:00"}, "Within a hundred years of now."),
        ({"every": "5", "job": "no.such.task"}, "no.such.task is not one of the available choices"),
    ],
)
def test_a_wrong_form_is_refused_with_a_sentence_and_leaves_no_row(
    admin: Client, values: dict[str, str], sentence: str
) -> None:
    answer = admin.post(f"{LIST}add/", form(**values))
    assert answer.status_code == 200
    assert sentence in texts(answer)
    assert not PeriodicTask.objects.exists()
    assert not CrontabSchedule.objects.exists()
    assert not IntervalSchedule.objects.exists()


def test_one_mistake_gives_one_sentence(admin: Client) -> None:
    shown = texts(admin.post(f"{LIST}add/", form(cron="75 * * * *")))
    assert "must be set" not in shown
    assert "Give a cron" not in shown


def test_the_page_shows_the_next_five_runs_with_what_the_clocks_do(admin: Client) -> None:
    task = make(crontab=rows.crontab_row(rows.parse("30 2 * * *"), "Europe/Rome"))
    with time_machine.travel(datetime(2026, 3, 28, 12, tzinfo=UTC), tick=False):
        shown = texts(admin.get(change(task)))
    assert "Sun 29 Mar 2026 03:30 CEST" in shown
    assert "02:30 does not exist on this day (clocks go forward): runs at 03:30." in shown
    assert "Thu 02 Apr 2026 02:30 CEST" in shown
    assert "Fri 03 Apr 2026" not in shown


def test_the_preview_answers_what_is_typed_and_never_saves(admin: Client) -> None:
    url = reverse("admin:django_celery_beat_periodictask_preview")
    with time_machine.travel(datetime(2026, 10, 24, 12, tzinfo=UTC), tick=False):
        shown = texts(admin.get(url, {"cron": "30 2 * * *", "zone": "Europe/Rome", "every": "", "period": "minutes"}))
    assert "At 02:30 (Europe/Rome)" in shown
    assert "02:30 comes twice on this day (clocks go back): runs the first time only." in shown
    assert "every 30 s" in texts(admin.get(url, {"cron": "", "every": "30", "period": "seconds"}))
    assert "minute 75 is outside 0–59." in texts(admin.get(url, {"cron": "75 * * * *"}))
    assert "&lt;script&gt;" in admin.get(url, {"cron": "<script> * * * *"}).content.decode()
    assert not CrontabSchedule.objects.exists()
    admin.logout()
    assert admin.get(url, {"cron": "* * * * *"}).status_code == 302


def test_the_codes_row_keeps_its_job_and_the_systems_own_cannot_be_edited_at_all(
    admin: Client, only_heartbeat: ScheduleSpec
) -> None:
    reconcile_schedules()
    fixed = PeriodicTask.objects.get(name="zantara.heartbeat")
    page = admin.get(change(fixed)).content.decode()
    assert 'name="cron"' not in page
    assert 'name="enabled"' not in page
    assert "cannot be edited here" in page
    admin.post(change(fixed), form(name="mine", job="other", cron="0 0 1 1 *", queue="elsewhere"))
    fixed.refresh_from_db()
    assert (fixed.name, fixed.task, fixed.crontab, fixed.queue) == ("zantara.heartbeat", HEARTBEAT, None, "engine")


def test_an_operators_edit_of_a_codes_row_is_shown_as_edited(admin: Client, declared: Any) -> None:
    declared.add("x", replace(heartbeat.SPEC, name="x", label="Rounds", editable=True))
    reconcile_schedules()
    task = PeriodicTask.objects.get(name="x")
    admin.post(change(task), form(name="renamed", job="other", every="5"))
    task.refresh_from_db()
    assert (task.name, task.task, task.interval.every, task.interval.period) == ("x", HEARTBEAT, 5, "minutes")
    shown = texts(admin.get(LIST))
    assert "code, edited" in shown
    assert "Rounds" in shown


def test_whoever_may_only_look_sees_the_schedule_in_words_and_no_field(operator: User, client: Client) -> None:
    operator.user_permissions.remove(Permission.objects.get(codename="change_periodictask"))
    client.force_login(operator)
    task = make()
    page = client.get(change(task))
    assert "At 03:30, only on Monday" in texts(page)
    assert 'name="cron"' not in page.content.decode()
    assert client.post(change(task), form(every="1")).status_code == 403
    assert "Run now" not in texts(client.get(LIST))


# --- run now


def test_run_now_asks_sends_the_task_and_says_where_to_look(
    admin: Client, redis_client: redis.Redis, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.conf, "broker_write_url", settings.CELERY_BROKER_URL)
    task = make(queue="special")
    assert "Run now" in texts(admin.get(LIST))
    asked = admin.get(action_url(task))
    assert "sent once" in texts(asked)
    assert redis_client.llen("special") == 0
    admin.post(action_url(task), {"_form_submitted": "True"})
    assert redis_client.llen("special") == 1
    shown = texts(admin.get(LIST))
    found = re.search(r"“nightly” was sent as task ([0-9a-f-]{36})", shown)
    assert found
    assert found[1].encode() in (redis_client.lindex("special", 0) or b"")


def test_run_now_has_its_own_permission_and_change_serves_only_until_it_exists(
    operator: User, client: Client, redis_client: redis.Redis
) -> None:
    task = make(queue="special")
    client.force_login(operator)
    assert client.get(action_url(task)).status_code == 200
    permission = ensure_permissions()
    assert client.post(action_url(task), {"_form_submitted": "True"}).status_code == 403
    assert redis_client.llen("special") == 0
    operator.user_permissions.add(permission)
    assert client.post(action_url(task), {"_form_submitted": "True"}).status_code == 200
    assert redis_client.llen("special") == 1


def test_run_now_of_a_job_that_nobody_has_says_so(admin: Client, redis_client: redis.Redis) -> None:
    task = make(task="no.such.task", queue="special")
    admin.post(action_url(task), {"_form_submitted": "True"})
    assert "No code of this installation is named no.such.task." in texts(admin.get(LIST))
    assert redis_client.llen("special") == 0


# --- deletion


@pytest.mark.parametrize("how", ["one", "bulk"])
@pytest.mark.parametrize("kind", ["crontab", "interval"])
def test_a_shared_row_in_use_is_not_deleted_and_the_message_names_who_uses_it(
    admin: Client, how: str, kind: str
) -> None:
    task = make(interval=rows.interval_row(1, "hours")) if kind == "interval" else make()
    row = getattr(task, kind)
    place = f"/admin/django_celery_beat/{kind}schedule/"
    if how == "one":
        answer = admin.post(f"{place}{row.pk}/delete/", {"post": "yes"})
    else:
        data = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
        answer = admin.post(place, data, follow=True)
    shown = texts(answer)
    assert "Nothing was deleted. In use by “nightly”" in shown
    assert PeriodicTask.objects.filter(pk=task.pk).exists()
    assert type(row).objects.filter(pk=row.pk).exists()


def test_an_unused_shared_row_is_deleted_and_none_can_be_edited_or_added(admin: Client) -> None:
    row, other = rows.interval_row(1, "hours"), rows.interval_row(2, "hours")
    place = "/admin/django_celery_beat/intervalschedule/"
    assert "every hour" in texts(admin.get(place))
    assert admin.post(f"{place}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    data = {"action": "delete_selected", "_selected_action": [other.pk], "post": "yes"}
    assert admin.post(place, data).status_code == 302
    assert not IntervalSchedule.objects.exists()
    assert admin.get(f"{place}add/").status_code == 403


@pytest.mark.parametrize("how", ["one", "bulk"])
def test_a_codes_schedule_is_not_deleted_but_a_users_is(admin: Client, only_heartbeat: ScheduleSpec, how: str) -> None:
    reconcile_schedules()
    code, mine = PeriodicTask.objects.get(name="zantara.heartbeat"), make()

    def delete(task: PeriodicTask) -> str:
        if how == "one":
            return texts(admin.post(f"{LIST}{task.pk}/delete/", {"post": "yes"}, follow=True))
        data = {"action": "delete_selected", "_selected_action": [task.pk], "post": "yes"}
        return texts(admin.post(LIST, data, follow=True))

    assert "disable it instead" in delete(code)
    told = PeriodicTasks.last_change()
    delete(mine)
    assert list(PeriodicTask.objects.values_list("name", flat=True)) == ["zantara.heartbeat"]
    assert PeriodicTasks.last_change() > told
