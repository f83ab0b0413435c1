from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User

from backups.models import BackupPlan, BackupRecord, BackupSource
from controlplane.kernel.env import Env
from controlplane.kernel.registry import Probe, ProbeResult, Registry
from controlplane.setup import bootstrap, doctor
from controlplane.setup.groups import ADMINISTRATOR, OPERATOR, VIEWER, ensure_groups
from ratelimits.models import RateLimitProfile

pytestmark = pytest.mark.usefixtures("redis_url")


def names(group: str) -> set[str]:
    rows = Group.objects.get(name=group).permissions.select_related("content_type")
    return {f"{row.content_type.app_label}.{row.codename}" for row in rows}


def test_the_seeds_five_profiles_are_made_with_their_messages(db: None) -> None:
    assert bootstrap.create_profiles().status == "changed"
    rows = RateLimitProfile.objects.values_list("role", "requests", "window_seconds", "message")
    assert set(rows) == {
        ("AI Bridge/Tech Lead", 1000, 900, "Too many requests for Tech Lead"),
        ("CEO", 500, 900, "Too many requests for CEO"),
        ("Setup Team Lead", 200, 900, "Too many requests for Setup Team"),
        ("External", 50, 900, "Too many requests for external user"),
        ("default", 100, 900, "Rate limit exceeded"),
    }


def test_an_operators_edit_is_never_overwritten_and_what_he_deleted_stays_deleted(db: None) -> None:
    bootstrap.create_profiles()
    ceo = RateLimitProfile.objects.get(role="CEO")
    ceo.requests, ceo.active = 7, False
    ceo.save()
    RateLimitProfile.objects.get(role="External").delete()
    assert bootstrap.create_profiles().status == "unchanged"
    ceo.refresh_from_db()
    assert (ceo.requests, ceo.active, RateLimitProfile.objects.filter(role="CEO").count()) == (7, False, 1)
    assert not RateLimitProfile.objects.filter(role="External").exists()


def test_a_narrowed_profile_does_not_stand_in_for_the_plain_one_of_its_role(db: None) -> None:
    RateLimitProfile(role="External", route_prefix="/x", requests=1).save()
    assert bootstrap.create_profiles().summary == "5 rate-limit profiles created"
    rows = RateLimitProfile.objects.filter(role="External").values_list("route_prefix", "requests")
    assert set(rows) == {("/x", 1), ("", 50)}


def test_a_viewer_sees_an_operator_changes_limits_and_schedules_an_administrator_may_do_all(db: None) -> None:
    ensure_groups()
    viewer, operator, administrator = names(VIEWER), names(OPERATOR), names(ADMINISTRATOR)
    assert {name.split(".")[1].split("_")[0] for name in viewer} == {"view"}
    assert "sessions.view_session" not in viewer
    assert viewer < operator < administrator
    assert {"ratelimits.change_ratelimitprofile", "django_celery_beat.change_periodictask"} <= operator
    assert not {name for name in operator if ".delete_" in name}
    assert not {name for name in operator - viewer if name.startswith("auth.")}
    assert len(administrator) == Permission.objects.count()


def test_a_verb_counts_for_operators_as_soon_as_an_app_brings_it(db: None) -> None:
    ensure_groups()
    permission = Permission.objects.filter(codename="reset_caller").first()
    if permission is None:
        other = Permission.objects.get(codename="change_ratelimitprofile")
        Permission.objects.create(codename="reset_caller", name="reset", content_type=other.content_type)
    ensure_groups()
    assert "ratelimits.reset_caller" in names(OPERATOR)
    assert "ratelimits.reset_caller" not in names(VIEWER)


def test_what_was_added_to_a_group_stays(db: None) -> None:
    ensure_groups()
    extra = Permission.objects.get(codename="delete_ratelimitprofile")
    Group.objects.get(name=VIEWER).permissions.add(extra)
    assert ensure_groups() == {VIEWER: 0, OPERATOR: 0, ADMINISTRATOR: 0}
    assert "ratelimits.delete_ratelimitprofile" in names(VIEWER)


def test_the_first_superuser_gets_a_made_up_password_that_works(db: None) -> None:
    step, password = bootstrap.create_admin(Env({}))
    assert step.status == "changed"
    assert password is not None
    assert (len(password), set(password) <= set(bootstrap.ALPHABET)) == (20, True)
    user = User.objects.get()
    assert (user.username, user.is_superuser, user.is_staff, user.check_password(password)) == (
        "admin", True, True, True,
    )  # fmt: skip
    assert bootstrap.create_admin(Env({}))[1] is None


def test_with_another_superuser_no_admin_is_made(db: None) -> None:
    User.objects.create_superuser("grace", password="a-long-password")
    step, password = bootstrap.create_admin(Env({"ZANTARA_ADMIN_PASSWORD": "x"}))
    assert (step.status, password, User.objects.filter(username="admin").exists()) == ("unchanged", None, False)


def test_a_present_admin_keeps_his_password(db: None) -> None:
    User.objects.create_user("admin", password="first-password")
    bootstrap.create_admin(Env({"ZANTARA_ADMIN_PASSWORD": "second-password"}))
    assert User.objects.get().check_password("first-password")


def test_all_steps_run_on_this_database_and_a_second_time_change_nothing(
    transactional_db: None, settings: Any, tmp_path: Path
) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path
    first = bootstrap.bootstrap(Env({}))
    again = bootstrap.bootstrap(Env({}))
    assert [step.name for step in first.steps] == [
        "migrations", "profiles", "groups", "schedules", "limits", "backups", "deployments", "superuser",
    ]  # fmt: skip
    assert (first.steps[-1].status, len(first.admin_password or "")) == ("changed", 20)
    assert ({step.status for step in again.steps}, again.admin_password) == ({"unchanged"}, None)


def test_keys_and_the_plan_are_made_once_and_only_a_stack_asks_for_the_first_run(
    transactional_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tmp_path))
    settings.ZANTARA_DATA_DIR, settings.ZANTARA_CHROMA_URL = tmp_path, "http://127.0.0.1:8001"
    env = Env({"ZANTARA_EDGE_PORT": "3000"})
    first = bootstrap.prepare_backups(env)
    assert first.status == "changed"
    for made in ("recovery key", "drill identity", "manifest signing key", "target local", "plan zantara"):
        assert made in first.summary
    plan = BackupPlan.objects.get()
    assert set(plan.sources.values_list("name", flat=True)) == {
        "control-plane-database", "configuration", "user-data", "logs", "zantara-memory-vectors", "chroma",
    }  # fmt: skip
    assert not BackupRecord.objects.exists()
    assert bootstrap.prepare_backups(env).status == "unchanged"

    asked = bootstrap.prepare_backups(env, first_backup=True)
    record = BackupRecord.objects.get()
    assert (asked.summary, record.trigger, record.state) == (f"made: first run {record.name}", "first", "queued")
    assert bootstrap.prepare_backups(env, first_backup=True).status == "unchanged"


def test_a_seeded_source_follows_the_stacks_addresses_until_an_operator_edits_it(
    transactional_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tmp_path))
    settings.ZANTARA_DATA_DIR, settings.ZANTARA_CHROMA_URL = tmp_path, "http://127.0.0.1:8001"
    bootstrap.prepare_backups(Env({"ZANTARA_EDGE_PORT": "3000"}))
    settings.ZANTARA_CHROMA_URL = "http://127.0.0.1:8002"
    bootstrap.prepare_backups(Env({"ZANTARA_EDGE_PORT": "3001"}))
    urls = {row.name: row.settings["url"] for row in BackupSource.objects.filter(settings__has_key="url")}
    assert urls == {
        "chroma": "http://127.0.0.1:8002", "zantara-memory-vectors": "http://127.0.0.1:3001/vectors/export",
    }  # fmt: skip

    chroma = BackupSource.objects.get(name="chroma")
    chroma.settings = {**chroma.settings, "url": "http://elsewhere:8000"}
    chroma.save()
    settings.ZANTARA_CHROMA_URL = "http://127.0.0.1:8003"
    bootstrap.prepare_backups(Env({"ZANTARA_EDGE_PORT": "3001"}))
    chroma.refresh_from_db()
    assert chroma.settings["url"] == "http://elsewhere:8000"


def test_what_an_operator_deleted_of_the_seed_stays_deleted(
    transactional_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tmp_path))
    settings.ZANTARA_DATA_DIR = tmp_path
    bootstrap.prepare_backups(Env({}))
    BackupSource.objects.get(name="logs").delete()
    BackupPlan.objects.get().delete()
    assert bootstrap.prepare_backups(Env({}), first_backup=True).status == "unchanged"
    assert not BackupPlan.objects.exists()
    assert not BackupSource.objects.filter(name="logs").exists()


def test_what_fails_before_the_last_step_leaves_no_admin_whose_password_nobody_saw(
    transactional_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ZANTARA_DATA_DIR = tmp_path

    def broken() -> None:
        raise RuntimeError("publishing broke")

    monkeypatch.setattr(bootstrap, "publish", broken)
    with pytest.raises(RuntimeError, match="publishing broke"):
        bootstrap.bootstrap(Env({}))
    assert not User.objects.exists()


def test_schedules_are_reconciled_once_and_then_unchanged(db: None) -> None:
    assert bootstrap.create_schedules().status == "changed"
    assert bootstrap.create_schedules().status == "unchanged"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Registry[Probe]:
    registry: Registry[Probe] = Registry("health probe")
    monkeypatch.setattr(doctor, "probes", registry)
    return registry


@pytest.mark.parametrize(
    ("result", "critical", "status"),
    [
        (ProbeResult("pass", "fine"), True, "ok"),
        (ProbeResult("warn", "slow"), True, "warn"),
        (ProbeResult("unknown", "who knows"), False, "warn"),
        (ProbeResult("unknown", "who knows"), True, "fail"),
        (ProbeResult("fail", "broken"), False, "fail"),
    ],
)
def test_every_probe_is_a_line_and_every_bad_line_has_a_remedy(
    only: Registry[Probe], result: ProbeResult, critical: bool, status: str, db: None
) -> None:
    only.add("p", Probe("p", "the thing", lambda: result, critical=critical))
    found = {finding.name: finding for finding in doctor.diagnose().findings}
    assert (found["p"].status, found["p"].summary) == (status, result.summary)
    assert bool(found["p"].remedy) is (status != "ok")


def test_warnings_do_not_fail_the_diagnosis() -> None:
    ok, warn, fail = (doctor.Finding("x", status, "s", "r") for status in ("ok", "warn", "fail"))
    assert doctor.Diagnosis((ok,)).status == "ok"
    assert doctor.Diagnosis((ok, warn)).status == "warn"
    assert doctor.Diagnosis((fail, ok, warn)).status == "fail"


def test_a_failing_system_check_is_a_failing_line_with_its_page(db: None, settings: Any, only: Registry[Probe]) -> None:
    settings.CELERY_TASK_ALWAYS_EAGER = True
    found = {finding.name: finding for finding in doctor.diagnose().findings}
    assert found["zantara.E005"].status == "fail"
    assert "Remove CELERY_TASK_ALWAYS_EAGER." in found["zantara.E005"].remedy
    assert found["zantara.E005"].docs == "docs/checks.md#zantarae005"
    assert "system checks" not in found
