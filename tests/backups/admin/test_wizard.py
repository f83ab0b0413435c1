"""The restore wizard over a real set: parts, preview, the id typed in; then the page of the restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse

from backups.models import BackupRecord, ControlledService, RestoreRecord
from backups.sources.base import kinds
from controlplane.kernel import clock
from tests.backups.factories import committed_set

from . import rows
from .pages import change, messages_of, part, press, text_of


@pytest.fixture
def record(admin: Client, tmp_path: Path) -> BackupRecord:
    return committed_set(tmp_path, contents={"a.txt": b"hello", "b.txt": b"there"})


def choose(record: BackupRecord) -> str:
    return reverse("admin:backups_restore_choose", args=(record.pk,))


def preview(record: BackupRecord, parts: list[str] | None = None, **options: Any) -> str:
    query = {"parts": parts if parts is not None else names(record), "minimum_score": 80, **options}
    return f"{reverse('admin:backups_restore_preview', args=(record.pk,))}?{urlencode(query, doseq=True)}"


def names(record: BackupRecord) -> list[str]:
    return list(record.artifacts.values_list("name", flat=True))


def confirm(
    client: Client, record: BackupRecord, *, typed: str | None = None, reason: str = "lost", **options: Any
) -> Any:
    return client.post(preview(record, **options), {"typed": record.name if typed is None else typed, "reason": reason})


def test_the_parts_are_offered_by_group_with_the_defaults_of_each(admin: Client) -> None:
    plan = rows.make_plan()
    record = rows.make_set(plan, level=3)
    template = record.artifacts.get(name="logs")
    for name, kind in (("memory", "memory_vectors"), ("people", "userdata"), ("unknown", "floppy")):
        template.pk, template.name, template.kind = None, name, kind
        template._state.adding = True
        template.save()
    page = admin.get(choose(record))
    ticked = {part["name"] for group in page.context["groups"] for part in group["parts"] if part["ticked"]}
    assert ticked == {"memory"}
    assert [group["title"] for group in page.context["groups"]] == [
        "Vectors", "Databases", "Configuration", "User data", "Logs", "Of a kind that this version does not know",
    ]  # fmt: skip
    shown = text_of(page)
    assert "1. Choose" in shown or "Choose Look at what would happen" in shown
    assert "In the last drill everything in it took" in shown
    assert "Vectors" in shown


def test_a_damaged_part_is_not_ticked_for_anybody(admin: Client) -> None:
    record = rows.make_set(rows.make_plan(), level=3)
    record.artifacts.filter(name="logs").update(kind="memory_vectors", damaged_at=clock.now(), damage="gone")
    page = admin.get(choose(record))
    assert not any(one["ticked"] for group in page.context["groups"] for one in group["parts"])
    assert "Damaged" in text_of(page)


def test_the_preview_says_what_would_be_done_and_changes_nothing(
    admin: Client, record: BackupRecord, tmp_path: Path
) -> None:
    (tmp_path / "source" / "a.txt").write_bytes(b"changed since")
    page = admin.get(preview(record))
    shown = text_of(page)
    assert page.context["may_begin"] is True
    assert "the stored set is committed and its manifest is authentic" in shown
    assert "First a safety backup of these parts is made." in shown
    assert f"Type {record.name}" in shown
    assert "Space needed beside the live data:" in shown
    assert RestoreRecord.objects.count() == 0
    assert (tmp_path / "source" / "a.txt").read_bytes() == b"changed since"


def test_a_refusal_blocks_and_says_why(admin: Client, record: BackupRecord, tmp_path: Path) -> None:
    for commit in tmp_path.rglob("COMMIT"):
        commit.unlink()
    page = admin.get(preview(record))
    assert page.context["may_begin"] is False
    assert "It would not begin." in text_of(page)
    assert "does not exist" in text_of(page)
    assert 'id="zt-confirm-form"' not in page.content.decode()


def test_typing_the_id_and_a_reason_asks_for_the_restore_and_leads_to_its_steps(
    admin: Client, record: BackupRecord
) -> None:
    answer = confirm(admin, record, reason="the disk broke", minimum_score=70)
    restore = RestoreRecord.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, change("restorerecord", restore.pk))
    assert (restore.state, restore.requested_by, restore.reason) == ("queued", "root", "the disk broke")
    assert (restore.artifacts, restore.options["minimum_score"]) == (names(record), 70)
    assert restore.options["stop_services"] is False
    assert restore.events.get().actor == "root"


@pytest.mark.parametrize(("typed", "reason"), [("", "r"), ("zantara-backup", "r"), (None, "  ")])
def test_nothing_is_asked_for_without_the_id_and_a_reason(
    admin: Client, record: BackupRecord, typed: str | None, reason: str
) -> None:
    answer = confirm(admin, record, typed=typed, reason=reason)
    assert answer.status_code == 200
    assert RestoreRecord.objects.count() == 0


def test_services_are_stopped_only_where_that_is_wanted(admin: Client, record: BackupRecord) -> None:
    ControlledService.objects.create(name="app", stop_command="true", start_command="true")
    ControlledService.objects.create(name="other", stop_command="true", start_command="true")
    assert "app is left alone" in text_of(admin.get(preview(record, services=["app"])))
    page = text_of(admin.get(preview(record, stop_services="on", services=["app"])))
    assert "app is stopped meanwhile" in page
    assert "other is left alone" in page
    confirm(admin, record, services=["app"])
    assert RestoreRecord.objects.get().options["services"] == []


def test_no_part_and_unknown_parts_lead_back_to_the_choice(admin: Client, record: BackupRecord) -> None:
    for parts in ([], ["nothing-of-the-kind"]):
        answer = admin.get(preview(record, parts))
        assert answer.status_code == 302
        assert answer["Location"].startswith(choose(record))
    assert "Choose at least one part." in text_of(admin.get(f"{choose(record)}?minimum_score=80"))
    assert admin.post(preview(record, []), {"typed": record.name, "reason": "r"}).status_code == 302
    assert RestoreRecord.objects.count() == 0


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_only_administrators_restore(group: str, record: BackupRecord, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(group)
    assert client.get(choose(record)).status_code == 403
    assert client.get(preview(record)).status_code == 403
    assert confirm(client, record).status_code == 403
    assert RestoreRecord.objects.count() == 0
    assert client.get(reverse("admin:backups_backuprecord_restore", args=(record.pk,))).status_code == 403


# --- the page of a restore -----------------------------------------------------------------------


def test_the_steps_are_followed_live_and_the_page_is_told_when_it_ended(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    at = clock.now().isoformat()
    first = {"step": "preflight", "artifact": "", "status": "done", "started_at": at, "finished_at": at, "detail": ""}
    second = {"step": "prepare", "artifact": "configuration", "status": "running", "started_at": at, "detail": "3 MiB"}
    restore = rows.make_restore(record, state="restoring", steps=[first, second])
    page = admin.get(change("restorerecord", restore.pk))
    assert 'hx-trigger="every 2s' in page.content.decode()
    live = admin.get(f"/admin/backups/restorerecord/{restore.pk}/live/")
    shown = text_of(live)
    assert "Restore beside configuration" in shown
    assert "3 MiB" in shown
    assert part(live, r'<li class="zt-way-running"[^>]*>.*?</li>') == "Restoring beside"
    assert live.content.decode().count("zt-way-done") == 3
    assert "HX-Trigger" not in live
    RestoreRecord.objects.filter(pk=restore.pk).update(state="done", score=97)
    ended = admin.get(f"/admin/backups/restorerecord/{restore.pk}/live/")
    assert ended["HX-Trigger"] == "zt-backups-moved"
    assert "It is restored, and the system is well." in text_of(ended)
    assert "97 of 100" in text_of(ended)
    assert 'hx-trigger="every 2s' not in admin.get(change("restorerecord", restore.pk)).content.decode()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("rolled_back", "Everything is as it was before."),
        ("failed", "not everything could be put back"),
        ("refused", "Nothing was touched"),
        ("cancelled", "cancelled before anything was touched"),
    ],
)
def test_how_it_ended_is_said_in_a_sentence(admin: Client, state: str, sentence: str) -> None:
    restore = rows.make_restore(rows.make_set(rows.make_plan()), state=state, error="the score is 60")
    page = admin.get(change("restorerecord", restore.pk))
    assert sentence in text_of(page)
    assert "the score is 60" in text_of(page)
    assert page.context["actions_detail"] == []


def test_a_restore_is_cancelled_by_those_who_may_restore(admin: Client, operator: Client) -> None:
    restore = rows.make_restore(rows.make_set(rows.make_plan()), state="queued", finished_at=None, started_at=None)
    assert press(operator, "cancel", restore.pk, model="restorerecord").status_code == 403
    press(admin, "cancel", restore.pk, model="restorerecord")
    restore.refresh_from_db()
    assert restore.state == "cancelled"
    assert "was asked to stop" in messages_of(admin)[0]


def test_every_step_of_the_engine_and_every_state_has_words_here() -> None:
    from backups.admin import restores, words
    from backups.machines import PROOF, RECORD, RESTORE
    from backups.restore.steps import STEPS

    assert set(RECORD.moves) == set(words.RECORD_STATES)
    assert set(PROOF.moves) == set(words.PROOF_STATES)
    assert set(RESTORE.moves) == set(words.RESTORE_STATES)
    assert {step.state for step in STEPS} | {"done"} == set(restores.WAY)
    assert {kind.group for kind in kinds} <= {"vectors", "databases", "configuration", "userdata", "logs"}
