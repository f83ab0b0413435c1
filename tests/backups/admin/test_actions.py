"""Acts on backups: each with its permission, its dialog, its event, and nothing done where one is missing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from backups.models import BackupPlan, BackupRecord, PlanState, ProofRun
from controlplane.kernel import clock
from tests.console.people import person, signed_in

from . import rows
from .pages import change, messages_of, press, text_of

pytestmark = pytest.mark.django_db

#: Every act: its button, on which model, what it is pressed on, what is typed in, and who may.
ACTS: dict[str, tuple[str, str, dict[str, Any], frozenset[str]]] = {
    "run": ("backupplan", "plan", {}, frozenset({"Operator", "Administrator"})),
    "cancel": ("backuprecord", "running", {"reason": "r"}, frozenset({"Operator", "Administrator"})),
    "verify": ("backuprecord", "committed", {"level": "1"}, frozenset({"Operator", "Administrator"})),
    "drill": ("backuprecord", "committed", {}, frozenset({"Operator", "Administrator"})),
    "pin": ("backuprecord", "committed", {"reason": "r"}, frozenset({"Operator", "Administrator"})),
    "undo_expiry": ("backuprecord", "expiring", {}, frozenset({"Operator", "Administrator"})),
    "delete_set": ("backuprecord", "old", {"reason": "r"}, frozenset({"Administrator"})),
    "unfreeze_plan": ("backupplan", "plan", {"reason": "r"}, frozenset({"Administrator"})),
}


@pytest.fixture
def world(redis_url: str) -> dict[str, Any]:
    plan = rows.make_plan()
    old = rows.make_set(plan, clock.now() - timedelta(days=3), level=2)
    found = {
        "plan": plan,
        "old": old,
        "expiring": rows.make_set(plan, clock.now() - timedelta(days=2), state="expiring", expires_at=clock.now()),
        "committed": rows.make_set(plan, level=3),
        "running": rows.make_record(rows.make_plan("other"), state="running"),
    }
    PlanState.objects.create(plan=plan, retention_frozen_at=clock.now(), retention_frozen_reason="fewer rows")
    return found


def typed_for(world: dict[str, Any], act: str) -> tuple[int, str, dict[str, Any]]:
    model, on, typed, _ = ACTS[act]
    row = world[on]
    return row.pk, model, {**typed, "typed": row.name} if act == "delete_set" else typed


@pytest.mark.parametrize("group", ["", "Viewer", "Operator", "Administrator"])
@pytest.mark.parametrize("act", ACTS)
def test_each_act_is_for_those_who_may_and_for_nobody_else(world: dict[str, Any], act: str, group: str) -> None:
    client = signed_in(person(group))
    pk, model, typed = typed_for(world, act)
    before = snapshot()
    answer = press(client, act, pk, model=model, **typed)
    if group in ACTS[act][3]:
        assert answer.status_code == 200
        assert "HX-Redirect" in answer or "HX-Refresh" in answer
        assert snapshot() != before
    else:
        assert answer.status_code == 403
        assert snapshot() == before


def snapshot() -> list[Any]:
    """Everything that an act could have changed."""
    return [
        list(
            BackupRecord.objects.order_by("pk").values_list("state", "pinned_at", "cancel_requested_at", "expires_at")
        ),
        list(ProofRun.objects.values_list("pk")),
        list(PlanState.objects.values_list("retention_frozen_at")),
    ]


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("queued", {"Cancel"}),
        ("running", {"Cancel"}),
        ("committed", {"Drill", "Restore", "Verify", "Pin", "Delete"}),
        ("expiring", {"Keep it: undo the expiry", "Drill", "Restore", "Verify", "Pin", "Delete"}),
        ("deleting", set()),
        ("deleted", set()),
        ("failed", {"Delete"}),
        ("cancelled", {"Delete"}),
    ],
)
def test_a_record_shows_the_buttons_that_make_sense_in_its_state(admin: Client, state: str, buttons: set[str]) -> None:
    record = rows.make_record(rows.make_plan(), state=state)
    shown = admin.get(change("backuprecord", record.pk)).context["actions_detail"]
    titles = {one["title"] for one in shown if "items" not in one}
    titles |= {item["title"] for one in shown for item in one.get("items", ())}
    assert titles == buttons


def test_a_viewer_sees_the_history_and_no_button(viewer: Client) -> None:
    record = rows.make_set(rows.make_plan())
    answer = viewer.get(change("backuprecord", record.pk))
    assert (answer.status_code, answer.context["actions_detail"]) == (200, [])
    assert viewer.get("/admin/backups/backuprecord/").context["actions_list"] == []


def test_run_now_asks_for_a_run_in_the_persons_name_and_leads_to_its_page(operator: Client) -> None:
    plan = rows.make_plan()
    answer = press(operator, "run_now", plan=plan.pk, reason="before the update")
    record = BackupRecord.objects.get()
    assert answer["HX-Redirect"] == change("backuprecord", record.pk)
    assert (record.trigger, record.requested_by, record.reason, record.state) == (
        "manual", "a-operator", "before the update", "queued",
    )  # fmt: skip
    event = record.events.get()
    assert (event.actor, event.reason) == ("a-operator", "before the update")


def test_a_second_run_of_a_plan_is_refused_with_a_reason(operator: Client) -> None:
    plan = rows.make_plan()
    running = rows.make_record(plan, state="running")
    press(operator, "run", plan.pk, model="backupplan")
    assert BackupRecord.objects.count() == 1
    (said,) = messages_of(operator)
    assert f"{running.name} of the plan zantara is running" in said


def test_cancelling_one_that_waits_ends_it_and_one_that_runs_is_asked(operator: Client) -> None:
    plan = rows.make_plan()
    waiting, running = rows.make_record(plan, state="queued"), rows.make_record(plan, state="running")
    press(operator, "cancel", waiting.pk)
    waiting.refresh_from_db()
    assert waiting.state == "queued"  # no reason, nothing done
    press(operator, "cancel", waiting.pk, reason="the disk is needed")
    press(operator, "cancel", running.pk, reason="the disk is needed")
    waiting.refresh_from_db()
    running.refresh_from_db()
    assert (waiting.state, running.state) == ("cancelled", "running")
    assert running.cancel_requested_by == "a-operator"
    told = waiting.events.latest()
    assert (told.actor, told.reason) == ("a-operator", "cancelled before it began: the disk is needed")
    assert running.events.latest().reason == "asked to stop: the disk is needed"


@pytest.mark.parametrize(
    ("act", "typed", "level"), [("verify", {"level": "0"}, 0), ("verify", {"level": "2"}, 2), ("drill", {}, 3)]
)
def test_proofs_are_asked_for_by_level_and_their_page_is_shown(
    operator: Client, act: str, typed: dict[str, str], level: int
) -> None:
    record = rows.make_set(rows.make_plan())
    answer = press(operator, act, record.pk, **typed)
    proof = ProofRun.objects.get()
    assert (proof.level, proof.trigger, proof.requested_by, proof.state) == (level, "manual", "a-operator", "queued")
    assert answer["HX-Redirect"] == change("proofrun", proof.pk)


def test_verify_offers_no_drill(operator: Client) -> None:
    record = rows.make_set(rows.make_plan())
    answer = press(operator, "verify", record.pk, level="3")
    assert ProofRun.objects.count() == 0
    assert "HX-Redirect" not in answer


def test_a_pin_needs_a_reason_and_is_taken_off_again(operator: Client) -> None:
    record = rows.make_set(rows.make_plan())
    press(operator, "pin", record.pk, reason="")
    record.refresh_from_db()
    assert record.pinned_at is None
    press(operator, "pin", record.pk, reason="before the migration")
    record.refresh_from_db()
    assert (record.pinned_by, record.pin_reason) == ("a-operator", "before the migration")
    press(operator, "unpin", record.pk)
    record.refresh_from_db()
    assert record.pinned_at is not None
    press(operator, "unpin", record.pk, reason="it went well")
    record.refresh_from_db()
    assert record.pinned_at is None
    assert [event.reason for event in record.events.order_by("pk")][-2:] == [
        "pinned: before the migration",
        "unpinned: it went well",
    ]


def test_undoing_an_expiry_keeps_the_set(operator: Client) -> None:
    record = rows.make_set(rows.make_plan(), state="expiring", expires_at=clock.now() + timedelta(hours=1))
    press(operator, "undo_expiry", record.pk)
    record.refresh_from_db()
    assert (record.state, record.expires_at, record.pinned_by) == ("committed", None, "a-operator")


@pytest.mark.parametrize("typed", ["", "zantara-backup", "ZANTARA-BACKUP-2026-01-01", "zantara-backup-2026-01-01x"])
def test_nothing_is_deleted_unless_the_id_is_typed_as_it_is(admin: Client, typed: str) -> None:
    plan = rows.make_plan()
    record = rows.make_set(plan, name="zantara-backup-2026-01-01")
    rows.make_set(plan, level=3)
    answer = press(admin, "delete_set", record.pk, typed=typed, reason="too old")
    record.refresh_from_db()
    assert record.state == "committed"
    assert "Nothing was done." in text_of(answer) or not typed


def test_a_deletion_needs_a_reason_and_is_noted_with_it(admin: Client) -> None:
    plan = rows.make_plan()
    record = rows.make_set(plan, clock.now() - timedelta(days=2), level=2)
    rows.make_set(plan, level=3)
    press(admin, "delete_set", record.pk, typed=record.name, reason="  ")
    record.refresh_from_db()
    assert record.state == "committed"
    press(admin, "delete_set", record.pk, typed=f" {record.name} ", reason="holds a secret")
    record.refresh_from_db()
    assert record.state == "deleting"
    event = record.events.latest()
    assert (event.to_state, event.actor, event.reason) == ("deleting", "root", "holds a secret")


def test_the_last_set_that_is_known_to_restore_is_not_deleted(admin: Client) -> None:
    record = rows.make_set(rows.make_plan(), level=3)
    press(admin, "delete_set", record.pk, typed=record.name, reason="r")
    record.refresh_from_db()
    assert record.state == "committed"
    assert "is the last restore point of zantara that is known to restore" in messages_of(admin)[0]


def test_a_frozen_plan_is_let_go_with_a_reason_and_its_button_is_gone_then(admin: Client) -> None:
    plan = rows.make_plan()
    PlanState.objects.create(plan=plan, retention_frozen_at=clock.now(), retention_frozen_reason="fewer rows")
    page = change("backupplan", plan.pk)
    assert "Let it delete again" in text_of(admin.get(page))
    press(admin, "unfreeze_plan", plan.pk, model="backupplan", reason="the logs were cleared")
    assert PlanState.objects.get().retention_frozen_at is None
    assert "Let it delete again" not in text_of(admin.get(page))


@pytest.mark.parametrize("act", ["cancel", "verify", "drill", "pin", "unpin", "undo_expiry", "delete_set"])
def test_opening_a_dialog_does_nothing(admin: Client, act: str) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, level=3)
    record = rows.make_set(plan)
    before = snapshot()
    assert admin.get(f"/admin/backups/backuprecord/{record.pk}/{act.replace('_set', '-set')}/").status_code == 200
    assert snapshot() == before


def test_an_act_on_a_row_that_is_gone_is_a_message_and_no_error(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    pk = record.pk
    BackupRecord.objects.filter(pk=pk).delete()
    press(admin, "drill", pk)
    assert messages_of(admin) == ["This row is gone. Load the list again."]
    assert BackupPlan.objects.count() == 1
