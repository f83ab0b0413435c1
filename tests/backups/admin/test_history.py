"""The history of backups: three things at a glance, whatever the number of rows."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from backups.machines import RECORD
from backups.models import BackupEvent, BackupRecord, PlanState
from controlplane.kernel import clock, transitions
from tests.console.people import person, signed_in

from . import rows
from .pages import HISTORY, change, part, row_of, text_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
#: Session, person, filters, the rows and their artifacts, plans and their newest sets, thirty days, and what runs.
QUERIES_OF_THE_LIST = 18


def ago(**span: float) -> datetime:
    return clock.now() - timedelta(**span)


@time_machine.travel(NOON, tick=False)
def test_a_row_says_what_was_saved_when_it_was_proven_and_how_long_a_restore_takes(admin: Client) -> None:
    record = rows.make_set(
        rows.make_plan(), ago(hours=10), level=3, proven_at=ago(hours=2), requested_by="olga", trigger="manual"
    )
    shown = row_of(admin.get(HISTORY), record.name)
    assert "zantara · by hand by olga" in shown
    assert "Committed" in shown
    assert "9 h ago took 1 min 13 s" in shown
    assert "262 MiB → 27 MiB 9.7 × smaller" in shown
    assert "L3 restored 2 h ago" in shown
    assert "8 s" in shown
    assert "within 30 days" in shown


@time_machine.travel(NOON, tick=False)
def test_each_state_is_said_in_words_with_what_becomes_of_it(admin: Client) -> None:
    plan = rows.make_plan()
    pinned = rows.make_set(plan, ago(days=1), pinned_at=ago(days=1), pinned_by="olga", pin_reason="migration")
    expiring = rows.make_set(
        plan, ago(days=2), state="expiring", expires_at=clock.now() + timedelta(hours=21, minutes=1)
    )
    failed = rows.make_record(plan, ago(days=3), state="failed", error="chroma did not answer")
    gone = rows.make_record(plan, ago(days=4), state="deleted", freed_bytes=5)
    page = admin.get(HISTORY)
    assert "Pinned" in row_of(page, pinned.name)
    assert "To be deleted" in row_of(page, expiring.name)
    assert "deleted in 21 h can be undone until then" in row_of(page, expiring.name)
    assert "Failed chroma did not answer" in row_of(page, failed.name)
    assert "Not proven yet" not in row_of(page, failed.name)
    assert "Deleted" in row_of(page, gone.name)


@time_machine.travel(NOON, tick=False)
def test_the_tracker_has_a_cell_a_day_with_words_and_a_link(admin: Client) -> None:
    plan = rows.make_plan(age_days=5)
    today = NOON.replace(hour=2)
    proven = rows.make_set(plan, today - timedelta(days=1), level=3)
    rows.make_record(plan, today - timedelta(days=2), state="failed")
    rows.make_set(plan, today)
    rows.make_set(plan, today + timedelta(hours=3), trigger="manual")
    page = admin.get(HISTORY)
    cells = re.findall(r'<li><a class="zt-cell zt-cell-(\w+)" href="([^"]+)" title="([^"]+)"', page.content.decode())
    assert len(cells) == 30
    assert [kind for kind, _, _ in cells[-6:]] == ["none", "missed", "missed", "failed", "proven", "committed"]
    assert cells[-2] == ("proven", change("backuprecord", proven.pk), "22 Nov: saved and proven to restore")
    assert cells[-3][2] == "21 Nov: failed"
    assert cells[-4][1:] == (change("backupplan", plan.pk), "20 Nov: missed: no run was begun")
    both = admin.get(cells[-1][1].replace("&amp;", "&"))
    assert {row.name for row in both.context["cl"].result_list} == {
        "zantara-backup-2026-11-23",
        "zantara-backup-2026-11-23-2",
    }


@time_machine.travel(NOON, tick=False)
def test_the_plan_above_the_list_tells_the_last_set_the_last_drill_and_the_next_run(admin: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, ago(days=2), level=3, proven_at=ago(days=1))
    rows.make_set(plan, ago(hours=10), level=1)
    shown = part(admin.get(HISTORY), r'<section class="zt-panel zt-plan".*?</section>')
    assert "At 02:00 (UTC)" in shown
    assert "Last saved 9 h ago" in shown
    assert "Last restored in a drill 1 d ago" in shown
    assert "A restore takes 8 s" in shown
    assert "Next run in 14 h" in shown


def test_a_frozen_plan_says_why_it_deletes_nothing(admin: Client) -> None:
    plan = rows.make_plan()
    PlanState.objects.create(plan=plan, retention_frozen_at=clock.now(), retention_frozen_reason="rows fell by 60 %")
    assert "Nothing of this plan is deleted for now: rows fell by 60 %" in text_of(admin.get(HISTORY))


def test_parts_of_a_plan_are_neither_its_night_nor_a_step_of_its_trend(admin: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, ago(days=2))
    rows.make_set(plan, ago(days=1))
    rows.make_set(plan, ago(hours=1), trigger="safety", only_sources=["configuration"])
    overview = admin.get(HISTORY).context["overview"]
    assert len(overview["plans"][0]["chart"]["stored"]) == 2
    assert sum(cell["kind"] == "committed" for cell in overview["plans"][0]["cells"]) == 2


def test_the_trend_is_drawn_from_the_second_set_on_and_told_in_a_table(admin: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, ago(days=1))
    assert "Drawn from the second set on." in text_of(admin.get(HISTORY))
    rows.make_set(plan, ago(hours=1), growth=2)
    page = admin.get(HISTORY).content.decode()
    points = json.loads(
        re.search(r'<canvas[^>]+data-trend></canvas><script type="application/json">(.*?)</script>', page)[1]
    )  # type: ignore[index]
    assert [round(stored / rows.MIB) for stored in points["stored"]] == [27, 54]
    assert "Sizes of the last sets of zantara" in page


def test_an_installation_without_a_plan_says_what_to_do(admin: Client) -> None:
    shown = text_of(admin.get(HISTORY))
    assert "No backup plan yet." in shown
    assert "No backup records yet." in shown


def test_the_list_costs_the_same_queries_for_two_records_and_for_sixty(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, ago(days=1), level=3)
    rows.make_set(rows.make_plan("second"), ago(days=1))
    admin.get(HISTORY)
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        admin.get(HISTORY)
    for number in range(28):
        rows.make_set(plan, ago(hours=number + 2), level=number % 4)
    rows.make_plan("third")
    with django_assert_num_queries(QUERIES_OF_THE_LIST):
        assert len(admin.get(HISTORY).context["cl"].result_list) == 30


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("proof=3", {"drilled", "old"}),
        ("proof=2", {"drilled", "old", "read"}),
        ("proof=0", {"drilled", "read", "present", "old"}),
        ("proof=none", {"fresh"}),
        ("proof=damaged", {"damaged"}),
        ("proof=old", {"old", "read", "present", "fresh"}),
        ("state=failed", {"failed"}),
        ("trigger__exact=manual", {"failed"}),
        ("q=migration", {"fresh"}),
        ("plan__id__exact=999", set()),
    ],
)
def test_the_filters_narrow_by_state_proof_trigger_and_words(admin: Client, query: str, found: set[str]) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, ago(hours=1), level=3, name="drilled")
    rows.make_set(plan, ago(hours=2), level=2, name="read")
    rows.make_set(plan, ago(hours=3), level=0, name="present")
    rows.make_set(plan, ago(hours=4), name="fresh", reason="before the migration")
    rows.make_set(plan, ago(days=20), level=3, proven_at=ago(days=19), name="old")
    damaged = rows.make_set(plan, ago(hours=5), level=3, name="damaged")
    damaged.artifacts.filter(position=1).update(damaged_at=clock.now())
    rows.make_record(plan, ago(hours=6), state="failed", name="failed", trigger="manual")
    assert {row.name for row in admin.get(f"{HISTORY}?{query}").context["cl"].result_list} == found


def test_a_filter_that_matches_nothing_is_told_from_an_empty_list(admin: Client) -> None:
    rows.make_set(rows.make_plan())
    assert "Nothing matches." in text_of(admin.get(f"{HISTORY}?state=failed"))


# --- what runs now -----------------------------------------------------------------------------


def running(plan: Any, **columns: Any) -> BackupRecord:
    progress = {
        "source": "logs", "position": 2, "of": 3, "plain_bytes": 110 * rows.MIB, "stored_bytes": 9 * rows.MIB,
        "expected_bytes": 220 * rows.MIB, "rate_bytes_per_second": 22 * rows.MIB,
    }  # fmt: skip
    return rows.make_record(plan, ago(seconds=62), state="running", progress=progress, **columns)


def test_a_running_backup_shows_bytes_rate_and_time_left(admin: Client) -> None:
    record = running(rows.make_plan())
    shown = text_of(admin.get(f"{HISTORY}live/"))
    assert f"Backup {record.name} Running" in shown
    assert "logs (2 of 3)" in shown
    assert "110 MiB of about 220 MiB → 9 MiB" in shown
    assert "22 MiB/s" in shown
    assert "about 5 s left" in shown
    assert "running for 1 min" in shown
    assert 'value="50"' in admin.get(f"{HISTORY}live/").content.decode()


def test_a_run_that_began_and_ended_between_two_polls_is_noticed(admin: Client) -> None:
    plan = rows.make_plan()
    seen = admin.get(HISTORY).context["overview"]["live"]["seen"]
    rows.make_set(plan)
    assert admin.get(f"{HISTORY}live/?seen={seen}")["HX-Trigger"] == "zt-backups-moved"


def test_a_poll_costs_six_queries_of_its_own_and_is_never_stored(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    plan = rows.make_plan()
    for _ in range(3):
        running(plan)
    rows.make_proof(rows.make_set(plan), state="running")
    with django_assert_num_queries(8):  # the session and the person are two
        answer = admin.get(f"{HISTORY}live/")
    assert "no-store" in answer["Cache-Control"]


def test_the_browser_is_told_when_a_state_has_moved_since_the_page_was_made(admin: Client) -> None:
    record = running(rows.make_plan())
    seen = admin.get(HISTORY).context["overview"]["live"]["seen"]
    assert "HX-Trigger" not in admin.get(f"{HISTORY}live/?seen={seen}")
    BackupRecord.objects.filter(pk=record.pk).update(progress={"source": "files"})
    assert "HX-Trigger" not in admin.get(f"{HISTORY}live/?seen={seen}")
    transitions.advance(record, "committed", machine=RECORD, event=BackupEvent)
    assert admin.get(f"{HISTORY}live/?seen={seen}")["HX-Trigger"] == "zt-backups-moved"


@pytest.mark.parametrize("path", ["", "live/", "1/live/", "1/change/"])
def test_nobody_without_the_right_sees_backups(redis_url: str, db: None, path: str) -> None:
    record = rows.make_set(rows.make_plan())
    answer = signed_in(person("")).get(HISTORY + path.replace("1", str(record.pk)))
    assert answer.status_code == 403
    assert record.name not in answer.content.decode()
