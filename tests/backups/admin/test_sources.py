"""Sources in the admin: a form per kind, secrets that never come back, and the test of the connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from backups.models import BackupSource
from backups.sources.base import kinds

from . import rows
from .pages import change, press, text_of

LIST = "/admin/backups/backupsource/"
SECRET = "hunter2-of-the-source"


def add(client: Client, kind: str, **typed: Any) -> Any:
    return client.post(f"{LIST}add/?kind={kind}", {"enabled": "on", **typed})


def save(client: Client, source: BackupSource, **typed: Any) -> Any:
    return client.post(change("backupsource", source.pk), {"name": source.name, "enabled": "on", **typed})


def vectors(**secrets: str) -> BackupSource:
    cleaned = kinds.get("memory_vectors").clean({"url": "http://127.0.0.1:9/export"}, secrets)
    return BackupSource.objects.create(name="vectors", kind="memory_vectors", settings=cleaned, secrets=secrets)


def test_first_the_kind_is_chosen_each_with_what_it_saves(admin: Client) -> None:
    page = admin.get(f"{LIST}add/")
    for kind in kinds:
        assert f'href="?kind={kind.kind}"' in page.content.decode()
        assert kind.label in text_of(page)
    assert 'name="name"' not in page.content.decode()


@pytest.mark.parametrize("kind", [kind.kind for kind in kinds])
def test_every_kind_has_a_form_with_its_own_settings(admin: Client, kind: str) -> None:
    page = admin.get(f"{LIST}add/?kind={kind}").content.decode()
    for setting in kinds.get(kind).fields:
        assert f'name="set_{setting.name}"' in page, setting.name
        assert setting.label in page.replace("&#x27;", "'")


def test_an_unknown_kind_leads_back_to_the_choice(admin: Client) -> None:
    assert "Which kind of source?" in text_of(admin.get(f"{LIST}add/?kind=floppy"))


def test_a_source_is_made_with_the_settings_that_its_kind_has_cleaned(admin: Client, tmp_path: Path) -> None:
    answer = add(
        admin, "files", name="etc", set_base=str(tmp_path), set_patterns="*.toml\n\n  conf/**  ", set_exclude=""
    )
    assert answer.status_code == 302
    source = BackupSource.objects.get()
    assert (source.kind, source.enabled, source.secrets) == ("files", True, {})
    assert source.settings == kinds.get("files").clean(
        {"base": str(tmp_path), "patterns": ["*.toml", "conf/**"], "exclude": []}, {}
    )
    page = admin.get(change("backupsource", source.pk)).content.decode()
    assert "*.toml\nconf/**" in page


def test_what_the_kind_refuses_is_said_at_the_setting_that_it_names(admin: Client) -> None:
    answer = add(
        admin,
        "logs",
        name="app-logs",
        set_base="",
        set_patterns="*.log",
        set_exclude="",
        set_max_age_days="-4",
        set_restore_to="",
    )
    assert answer.status_code == 200
    assert BackupSource.objects.count() == 0
    assert answer.context["adminform"].form.errors


def test_a_secret_is_stored_encrypted_and_never_rendered_back(admin: Client) -> None:
    add(admin, "memory_vectors", name="vectors", set_url="http://127.0.0.1:9/export", set_token=SECRET)
    source = BackupSource.objects.get()
    assert source.secrets == {"token": SECRET}
    assert "token" not in source.settings
    page = admin.get(change("backupsource", source.pk))
    assert SECRET not in page.content.decode()
    assert "Set; leave empty to keep it." in text_of(page)
    for row in BackupSource.objects.raw("SELECT id, secrets AS stored FROM backups_backupsource"):
        assert SECRET not in row.stored  # type: ignore[attr-defined]


def test_an_empty_secret_keeps_what_is_there_a_new_one_replaces_it_and_it_can_be_forgotten(admin: Client) -> None:
    source = vectors(token=SECRET)
    save(admin, source, set_url="http://127.0.0.1:10/export", set_token="")
    source.refresh_from_db()
    assert (source.settings["url"], source.secrets) == ("http://127.0.0.1:10/export", {"token": SECRET})
    save(admin, source, set_url="http://127.0.0.1:10/export", set_token="newer")
    source.refresh_from_db()
    assert source.secrets == {"token": "newer"}
    save(admin, source, set_url="http://127.0.0.1:10/export", set_token="", forget_token="on")
    source.refresh_from_db()
    assert source.secrets == {}


def test_a_secret_is_in_no_history_and_survives_a_revert(admin: Client) -> None:
    source = vectors(token=SECRET)
    save(admin, source, set_url="http://127.0.0.1:10/export", set_token="")
    history = admin.get(f"{LIST}{source.pk}/history/")
    assert SECRET not in history.content.decode()
    oldest = source.history.last()
    admin.post(f"{LIST}{source.pk}/history/{oldest.history_id}/revert/")
    source.refresh_from_db()
    assert (source.settings["url"], source.secrets) == ("http://127.0.0.1:9/export", {"token": SECRET})


def test_a_viewer_sees_settings_but_neither_fields_nor_secrets(viewer: Client) -> None:
    source = vectors(token=SECRET)
    page = viewer.get(change("backupsource", source.pk))
    assert page.status_code == 200
    assert "http://127.0.0.1:9/export" in page.content.decode()
    assert SECRET not in page.content.decode()
    assert "set_token" not in page.content.decode()
    assert viewer.post(change("backupsource", source.pk), {"name": "x"}).status_code == 403


def test_the_connection_is_tested_as_a_backup_would_reach_it(operator: Client, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1\n")
    settings = kinds.get("files").clean({"base": str(tmp_path), "patterns": "*.toml"}, {})
    source = BackupSource.objects.create(name="etc", kind="files", settings=settings)
    assert "It answers." in text_of(press(operator, "test_connection", source.pk, model="backupsource"))
    away = vectors(token=SECRET)
    answer = press(operator, "test_connection", away.pk, model="backupsource")
    assert "It does not work." in text_of(answer)
    assert "Not as expected" in text_of(answer)
    assert SECRET not in answer.content.decode()


def test_a_source_of_a_kind_that_is_gone_is_shown_and_its_test_says_so(admin: Client) -> None:
    source = BackupSource.objects.create(name="old", kind="floppy")
    assert "floppy: no code here has it" in text_of(admin.get(LIST))
    assert admin.get(change("backupsource", source.pk)).status_code == 200
    assert "floppy" in text_of(press(admin, "test_connection", source.pk, model="backupsource"))


def test_the_list_says_in_which_plans_and_when_it_was_last_saved(admin: Client) -> None:
    plan = rows.make_plan()
    rows.make_set(plan, level=3)
    BackupSource.objects.create(name="lonely", kind="files")
    shown = text_of(admin.get(LIST))
    assert "configuration Files 1 plan 3 h ago" in shown or "configuration Files 1 plan 2 h ago" in shown
    assert "lonely Files no plan never never On" in shown


def test_the_name_stays_once_parts_bear_it(admin: Client) -> None:
    rows.make_set(rows.make_plan())
    source = BackupSource.objects.get(name="configuration")
    save(admin, source, name="renamed", set_base="/srv", set_patterns="*.toml", set_exclude="")
    source.refresh_from_db()
    assert (source.name, source.settings["base"]) == ("configuration", "/srv")


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_only_administrators_make_sources(group: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(group)
    assert client.get(f"{LIST}add/").status_code == 403
    assert add(client, "files", name="etc", set_base="/", set_patterns="*").status_code == 403
    assert BackupSource.objects.count() == 0
