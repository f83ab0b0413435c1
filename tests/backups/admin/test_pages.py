"""Proofs, health, the recovery kit, the start page's card, the sidebar and the steps of the setup."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from backups import keys, kit
from backups.admin import card
from backups.models import BackupPlan, ProofRun, StorageTarget, TargetState
from controlplane.kernel import clock
from controlplane.kernel.registry import setup_steps
from tests.console.people import person, signed_in

from . import rows
from .pages import change, messages_of, press, text_of

PROOFS = "/admin/backups/proofrun/"
KIT = "/admin/backups/recovery-kit/"


# --- proofs ----------------------------------------------------------------------------------------


def test_the_list_of_proofs_says_what_was_looked_at_and_how_it_went(admin: Client) -> None:
    record = rows.make_set(rows.make_plan())
    rows.make_proof(record, level=3)
    rows.make_proof(record, level=1, state="unknown", error="the store did not answer", requested_by="olga")
    shown = text_of(admin.get(PROOFS))
    assert f"L3 restored {record.name} Passed 1 h ago 8 s 27 MiB schedule" in shown
    assert "Not known the store did not answer" in shown
    assert "olga" in shown


def test_the_page_of_a_proof_shows_its_findings_what_is_wrong_first(admin: Client) -> None:
    findings = [
        {"artifact": "logs", "status": "pass", "detail": "14 files as saved"},
        {"artifact": "database", "status": "fail", "detail": "auth_user: 12 rows expected, 11 restored"},
    ]
    proof = rows.make_proof(
        rows.make_set(rows.make_plan()), state="failed", findings=findings, error="1 row is missing"
    )
    shown = text_of(admin.get(change("proofrun", proof.pk)))
    assert shown.index("database Not as expected auth_user: 12 rows expected") < shown.index("logs As expected")
    assert "1 row is missing" in shown


def test_a_proof_that_is_not_possible_says_so_and_is_no_failure(admin: Client) -> None:
    proof = rows.make_proof(
        rows.make_set(rows.make_plan()), state="not_possible", error="no identity here", findings=[]
    )
    page = admin.get(change("proofrun", proof.pk))
    assert "Not possible here" in text_of(page)
    assert 'class="zt-badge zt-bad"' not in page.content.decode()
    assert "zt-problem" not in page.content.decode()


def test_a_running_proof_is_followed_and_can_be_cancelled(operator: Client, viewer: Client) -> None:
    proof = rows.make_proof(rows.make_set(rows.make_plan()), state="running", progress={"artifact": "logs"})
    live = operator.get(f"{PROOFS}{proof.pk}/live/")
    assert "logs" in text_of(live)
    assert "27 MiB read" in text_of(live)
    assert "HX-Trigger" not in live
    assert press(viewer, "cancel", proof.pk, model="proofrun").status_code == 403
    press(operator, "cancel", proof.pk, model="proofrun")
    proof.refresh_from_db()
    assert proof.cancel_requested_at is not None
    ProofRun.objects.filter(pk=proof.pk).update(state="cancelled")
    assert operator.get(f"{PROOFS}{proof.pk}/live/")["HX-Trigger"] == "zt-backups-moved"


@pytest.mark.parametrize("path", ["proofrun/", "restorerecord/"])
def test_lists_cost_the_same_queries_for_one_row_and_for_twenty(
    admin: Client, path: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    record = rows.make_set(rows.make_plan())
    rows.make_proof(record)
    rows.make_restore(record)
    admin.get(f"/admin/backups/{path}")
    with django_assert_num_queries(4):
        admin.get(f"/admin/backups/{path}")
    for _ in range(19):
        rows.make_proof(record)
        rows.make_restore(record)
    with django_assert_num_queries(4):
        admin.get(f"/admin/backups/{path}")


def test_empty_lists_say_what_would_be_in_them(admin: Client) -> None:
    assert "The first is made once a backup is committed." in text_of(admin.get(PROOFS))
    assert "Nothing was restored yet." in text_of(admin.get("/admin/backups/restorerecord/"))
    assert "A plan says which sources" in text_of(admin.get("/admin/backups/backupplan/"))


# --- health ----------------------------------------------------------------------------------------


def test_the_health_page_tells_what_is_wrong_first_with_a_remedy_and_a_link(viewer: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, clock.now() - timedelta(days=4), level=2, proven_at=clock.now())
    target = plan.target
    TargetState.objects.create(target=target, checked_at=clock.now(), reachable=False, message="access denied")
    page = viewer.get("/admin/backups/health/")
    shown = text_of(page)
    assert shown.index("Reachable local Not working access denied") < shown.index("Last backup zantara Look at this")
    assert change("storagetarget", target.pk) in page.content.decode()
    assert change("backupplan", plan.pk) in page.content.decode()
    assert "no-store" in page["Cache-Control"]


def test_a_system_that_is_well_says_so(viewer: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, level=3)
    TargetState.objects.create(
        target=plan.target, checked_at=clock.now(), reachable=True, free_bytes=50, total_bytes=100
    )
    shown = text_of(viewer.get("/admin/backups/health/"))
    assert "All well" in shown
    assert "To be looked at" not in shown
    assert "Free space 50 B free (50%)" in shown


# --- the recovery kit ------------------------------------------------------------------------------


def test_the_kit_is_downloaded_by_those_who_may_and_opened_by_the_recovery_key_alone(
    admin: Client, tmp_path: Path
) -> None:
    StorageTarget.objects.create(name="bucket", kind="s3", bucket="b-b", secret_access_key="hunter2")
    page = admin.get(KIT)
    assert "Move" in text_of(page)
    assert "recovery_key.txt" in text_of(page)
    answer = admin.post(KIT)
    assert answer["Content-Disposition"] == f'attachment; filename="{kit.FILE_NAME}"'
    assert b"hunter2" not in answer.content
    file = tmp_path / "kit"
    file.write_bytes(answer.content)
    opened = kit.open_kit(file, keys.identity_from_file(keys.recovery_key_file()))
    assert [target["name"] for target in opened.targets] == ["bucket"]
    entry = LogEntry.objects.latest("pk")
    assert (entry.object_repr, entry.user.username) == ("Recovery kit", "root")


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_the_kit_is_for_administrators(group: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(group)
    assert client.get(KIT).status_code == 403
    assert client.post(KIT).status_code == 403


def test_without_a_recovery_key_the_kit_says_what_to_do(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> bytes:
        from controlplane.kernel.errors import ConfigurationError

        raise ConfigurationError("There is no recovery key.", remedy="Run bootstrap.")

    monkeypatch.setattr("backups.admin.kit_page.make_kit", none)
    assert admin.post(KIT).status_code == 302
    assert messages_of(admin) == ["There is no recovery key. Run bootstrap."]


# --- the start page --------------------------------------------------------------------------------


def test_the_card_says_what_is_wrong_first_then_the_last_set_its_proof_and_the_next_run(admin: Client) -> None:
    plan = rows.make_plan()
    record = rows.make_set(plan, level=3)
    record.artifacts.filter(position=0).update(damaged_at=clock.now())
    TargetState.objects.create(target=plan.target, checked_at=clock.now(), reachable=False)
    found = card.backups_now()
    assert ["damaged artifact" in str(one["badge"]) for one in found["wrong"]] == [True, False]
    page = text_of(admin.get("/admin/"))
    section = page[page.index("Backups 1 damaged artifact") :]
    assert "local is not reachable" in section
    assert "27 MiB" in section
    assert "Next run in" in section


@pytest.mark.parametrize(
    ("hours", "enabled", "words"), [(27, True, "zantara: older than 26 h"), (25, True, ""), (27, False, "")]
)
def test_a_plan_whose_last_set_is_too_old_is_named(db: None, hours: int, enabled: bool, words: str) -> None:
    plan = rows.make_plan(enabled=enabled)
    rows.make_set(plan, clock.now() - timedelta(hours=hours), level=3, proven_at=clock.now())
    shown = " ".join(str(one["badge"]) for one in card.backups_now()["wrong"])
    assert (words in shown) if words else (shown == "")


def test_a_plan_that_never_saved_anything_is_named_after_an_hour(db: None) -> None:
    rows.make_plan("fresh", age_days=0)
    assert card.backups_now()["wrong"] == []
    rows.make_plan("old", age_days=1)
    assert "old has no backup" in str(card.backups_now()["wrong"][0]["badge"])


def test_the_card_costs_a_fixed_number_of_queries(db: None, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    rows.make_set(rows.make_plan())
    with django_assert_num_queries(5):
        card.backups_now()
    for number in range(3):
        plan = rows.make_plan(f"plan-{number}")
        for day in range(5):
            rows.make_set(plan, clock.now() - timedelta(days=day))
    with django_assert_num_queries(5):
        assert len(card.backups_now()["plans"]) == 4


def test_without_a_plan_the_card_says_so(admin: Client) -> None:
    assert "No plan yet, so nothing is saved." in text_of(admin.get("/admin/"))


def test_the_steps_of_the_setup_are_done_once_the_key_is_away_and_a_drill_has_passed(db: None) -> None:
    key, drill = setup_steps.get("backups.recovery_key"), setup_steps.get("backups.drill")
    assert (key.is_done(), drill.is_done()) == (False, False)
    assert drill.url() == PROOFS
    assert key.url().endswith("#move-the-recovery-key-away")
    record = rows.make_set(rows.make_plan())
    rows.make_proof(record, level=2)
    rows.make_proof(record, level=3, state="failed")
    assert not drill.is_done()
    rows.make_proof(record, level=3)
    assert drill.is_done()
    file = keys.recovery_key_file()
    aside = file.with_suffix(".moved")
    file.rename(aside)
    try:
        assert key.is_done()
    finally:
        aside.rename(file)


def test_sets_are_elsewhere_once_an_enabled_plan_stores_in_a_bucket_and_somebody_hears_once_there_is_a_channel(
    db: None,
) -> None:
    from controlplane.notifications.models import Channel

    elsewhere, channel = setup_steps.get("backups.elsewhere"), setup_steps.get("notifications.channel")
    plan = rows.make_plan()
    assert (elsewhere.is_done(), channel.is_done()) == (False, False)
    plan.target = StorageTarget.objects.create(name="bucket", kind="s3", bucket="b-b")
    plan.save()
    assert elsewhere.is_done()
    made = Channel.objects.create(name="hook", address="https://127.0.0.1/x", active=False)
    assert not channel.is_done()
    made.active = True
    made.save()
    assert channel.is_done()
    assert channel.url() == "/admin/notifications/channel/"


@pytest.mark.parametrize("group", ["Viewer", "Operator", "Administrator", ""])
def test_the_sidebar_shows_the_room_to_whoever_may_look(redis_url: str, db: None, group: str) -> None:
    page = signed_in(person(group)).get("/admin/")
    lines = [entry for entry in page.context["sidebar_navigation"] if entry["title"] == "Backups"]
    titles = [item["title"] for entry in lines for item in entry["items"]]
    everything = [
        "History", "Plans", "Sources", "Storage targets", "Proofs", "Restores", "Controlled services", "Backup health",
    ]  # fmt: skip
    assert titles == (everything if group else [])


def test_every_link_to_the_documentation_leads_to_a_heading() -> None:
    root = Path(__file__).parents[3]
    headings = re.findall(r"^#+ (.+)$", (root / "docs" / "backups.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    sources = "\n".join(path.read_text() for path in (root / "backups" / "admin").glob("*.py"))
    used = set(re.findall(r'docs_link\("([^"]+)"\)', sources))
    assert used
    assert used - anchors == set()


def test_no_secret_of_any_row_is_on_any_page(admin: Client) -> None:
    StorageTarget.objects.create(name="bucket", kind="s3", bucket="b-b", secret_access_key="hunter2")
    plan = rows.make_plan()
    source = rows.make_sources()[0]
    source.secrets = {"password": "hunter2"}
    source.save()
    record = rows.make_set(plan, level=3)
    for path in (
        "backuprecord/", "backupplan/", "backupsource/", "storagetarget/", "proofrun/", "restorerecord/", "health/",
        "recovery-kit/", f"restore/{record.pk}/", f"backuprecord/{record.pk}/change/", f"backupplan/{plan.pk}/change/",
        f"backupsource/{source.pk}/change/", f"backupsource/{source.pk}/history/",
    ):  # fmt: skip
        page = admin.get(f"/admin/backups/{path}")
        assert page.status_code == 200, path
        assert b"hunter2" not in page.content, path
    assert BackupPlan.objects.count() == 1
