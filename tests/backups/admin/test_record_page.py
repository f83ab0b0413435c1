"""The page of one restore point."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from backups.machines import RECORD
from backups.models import BackupEvent, BackupRecord
from controlplane.kernel import clock, transitions

from . import rows
from .pages import change, part, text_of

QUERIES_OF_THE_PAGE = 14


def page_of(record: BackupRecord) -> str:
    return change("backuprecord", record.pk)


def test_the_page_says_what_is_in_it_and_what_is_proven(admin: Client) -> None:
    record = rows.make_set(rows.make_plan(), level=3, warnings=["configuration: .env is not there"])
    page = admin.get(page_of(record))
    shown = text_of(page)
    assert "Everything in it was restored in a drill, which took 8 s." in shown
    assert "configuration: .env is not there" in shown
    assert record.prefix in shown
    database = part(page, r'<details[^>]+data-artifact="control-plane-database".*?</details>')
    assert "SQLite database" in database
    assert "42 MiB → 9 MiB 31 tables, 53 412 rows" in database
    assert "L3 restored 2 h ago" in database
    assert "A restore takes 3 s" in database
    assert "part-00001.age" in database
    assert "zstd 1.5.7" in database
    for hash_ in ("12" * 32, "34" * 32, "56" * 32):
        assert hash_ in database


def test_each_artifact_shows_the_line_that_restores_it_with_a_button_to_copy_it(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    page = admin.get(page_of(record)).content.decode()
    lines = re.findall(r'<pre class="zt-code" id="(zt-line-\d+)"[^>]*>(.*?)</pre>', page)
    assert len(lines) == len(rows.PARTS)
    for element, line in lines:
        assert line.startswith("set -o pipefail; cat ")
        assert f"{record.prefix}/" in line
        assert "age --decrypt --identity recovery_key.txt" in line
        assert f'data-copy="{element}"' in page


def test_damage_is_said_first_and_names_the_artifact(admin: Client) -> None:
    record = rows.make_set(rows.make_plan(), level=3)
    record.artifacts.filter(name="logs").update(damaged_at=clock.now(), damage="part-00001.age: its hash differs")
    page = admin.get(page_of(record))
    assert "Damage was found in logs." in text_of(page)
    assert "logs is damaged, found" in part(page, r'<div class="zt-problem" role="alert">.*?</div>')
    assert "Damaged" in part(page, r'data-artifact="logs".*?</details>')


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("queued", "Not a restore point yet."),
        ("running", "Not a restore point yet."),
        ("failed", "There is no restore point: nothing of it is kept."),
        ("cancelled", "There is no restore point: nothing of it is kept."),
        ("deleted", "Deleted; 1 MiB were freed. This record stays."),
        ("committed", "Saved; not proven yet."),
    ],
)
def test_the_page_begins_with_a_sentence_for_each_state(admin: Client, state: str, sentence: str) -> None:
    record = rows.make_record(rows.make_plan(), state=state, freed_bytes=rows.MIB)
    if state == "committed":
        rows.add_artifacts(record)
    answer = admin.get(page_of(record))
    assert sentence in text_of(answer)
    assert ("Restore it with stock tools" in text_of(answer)) == (state == "committed")


def test_a_failed_run_shows_why_and_a_deletion_that_does_not_work_shows_its_attempts(admin: Client) -> None:
    plan = rows.make_plan()
    failed = rows.make_record(plan, state="failed", error="pg_dump ended with exit code 1: no space")
    assert "What went wrong pg_dump ended with exit code 1: no space" in text_of(admin.get(page_of(failed)))
    stuck = rows.make_record(plan, state="deleting", delete_attempts=4, delete_error="access denied")
    assert "Deleting did not work (4 attempts); it is tried again access denied" in text_of(admin.get(page_of(stuck)))


def test_the_page_lists_events_proofs_and_restores(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    BackupEvent(
        subject=record, at=clock.now(), from_state="committed", to_state="committed", reason="pinned: x", actor="olga"
    ).save()
    proof, restore = rows.make_proof(record, state="failed"), rows.make_restore(record)
    page = admin.get(page_of(record))
    shown = text_of(page)
    assert "pinned: x by olga" in shown
    assert change("proofrun", proof.pk) in page.content.decode()
    assert change("restorerecord", restore.pk) in page.content.decode()
    assert "configuration, 20 min ago by olga, took 31 s" in shown


def test_the_page_costs_the_same_queries_for_three_artifacts_and_for_thirty(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    record = rows.make_set(rows.make_plan(), level=3)
    admin.get(page_of(record))
    with django_assert_num_queries(QUERIES_OF_THE_PAGE):
        admin.get(page_of(record))
    template = record.artifacts.first()
    assert template is not None
    for number in range(27):
        template.pk, template.name, template.position = None, f"more-{number}", number + 3
        template._state.adding = True
        template.save()
    for _ in range(10):
        rows.make_proof(record)
        rows.make_restore(record)
    with django_assert_num_queries(QUERIES_OF_THE_PAGE):
        assert admin.get(page_of(record)).status_code == 200


def test_the_page_of_a_running_one_is_loaded_again_when_its_state_moves(admin: Client) -> None:
    record = rows.make_record(rows.make_plan(), state="running", progress={"source": "logs"})
    seen = admin.get(page_of(record)).context["live"]["seen"]
    url = f"/admin/backups/backuprecord/{record.pk}/live/"
    assert "HX-Trigger" not in admin.get(f"{url}?seen={seen}")
    assert "logs" in text_of(admin.get(f"{url}?seen={seen}"))
    transitions.advance(record, "failed", machine=RECORD, event=BackupEvent)
    assert admin.get(f"{url}?seen={seen}")["HX-Trigger"] == "zt-backups-moved"


def test_a_row_cannot_be_changed_added_or_deleted_by_forms(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    assert admin.post(page_of(record), {"name": "other"}).status_code == 403
    assert admin.get("/admin/backups/backuprecord/add/").status_code == 403
    assert admin.post(f"/admin/backups/backuprecord/{record.pk}/delete/", {"post": "yes"}).status_code == 403
    record.refresh_from_db()
    assert record.name != "other"


def test_an_expiring_one_says_when_it_goes(admin: Client) -> None:
    record = rows.make_set(rows.make_plan(), state="expiring", expires_at=clock.now() + timedelta(hours=5))
    assert "Keep it: undo the expiry" in text_of(admin.get(page_of(record)))
