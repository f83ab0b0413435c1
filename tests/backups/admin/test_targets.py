"""Storage targets and controlled services in the admin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from backups.models import ControlledService, StorageTarget, TargetState
from controlplane.kernel import clock

from .pages import change, press, text_of

LIST = "/admin/backups/storagetarget/"
SERVICES = "/admin/backups/controlledservice/"
SECRET = "hunter2-of-the-bucket"


def typed(**columns: Any) -> dict[str, Any]:
    return {
        "name": "bucket", "kind": "s3", "path": "", "endpoint_url": "http://127.0.0.1:9", "bucket": "zantara-backups",
        "prefix": "", "region": "us-east-1", "path_style": "on", "checksum_mode": "when_required",
        "access_key_id": "key", "secret": "", **columns,
    }  # fmt: skip


def bucket(**columns: Any) -> StorageTarget:
    values = {"kind": "s3", "bucket": "zantara-backups", "endpoint_url": "http://127.0.0.1:9", "path_style": True}
    return StorageTarget.objects.create(
        name="bucket", access_key_id="key", secret_access_key=SECRET, **{**values, **columns}
    )


def test_a_bucket_is_saved_with_its_secret_encrypted_and_never_shown_again(admin: Client) -> None:
    assert admin.post(f"{LIST}add/", typed(secret=SECRET)).status_code == 302
    target = StorageTarget.objects.get()
    assert (target.secret_access_key, target.path_style, target.bucket) == (SECRET, True, "zantara-backups")
    page = admin.get(change("storagetarget", target.pk))
    assert SECRET not in page.content.decode()
    assert "Set; leave empty to keep it." in text_of(page)
    for row in StorageTarget.objects.raw("SELECT id, secret_access_key AS stored FROM backups_storagetarget"):
        assert SECRET not in row.stored  # type: ignore[attr-defined]


def test_an_empty_secret_keeps_the_one_that_is_there(admin: Client) -> None:
    target = bucket()
    admin.post(change("storagetarget", target.pk), typed(region="eu-central-1"))
    target.refresh_from_db()
    assert (target.region, target.secret_access_key) == ("eu-central-1", SECRET)
    admin.post(change("storagetarget", target.pk), typed(secret="newer"))
    target.refresh_from_db()
    assert target.secret_access_key == "newer"


def test_emptying_the_key_id_forgets_the_secret(admin: Client) -> None:
    target = bucket()
    admin.post(change("storagetarget", target.pk), typed(access_key_id=""))
    target.refresh_from_db()
    assert (target.access_key_id, target.secret_access_key) == ("", "")
    answer = admin.post(change("storagetarget", target.pk), typed(access_key_id="key"))
    assert list(answer.context["adminform"].form.errors) == ["secret"]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": "Not A Bucket"}, "bucket"),
        ({"kind": "local"}, "path"),
        ({"name": "A b"}, "name"),
    ],
)
def test_what_makes_no_sense_is_said_at_its_field(admin: Client, columns: dict[str, str], field: str) -> None:
    answer = admin.post(f"{LIST}add/", typed(**columns))
    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors
    assert StorageTarget.objects.count() == 0


def test_the_test_writes_and_reads_and_notes_what_the_target_said(operator: Client, tmp_path: Path) -> None:
    target = StorageTarget.objects.create(name="disk", kind="local", path=str(tmp_path))
    shown = text_of(press(operator, "test", target.pk, model="storagetarget"))
    assert "It answers. A small object was written, read back, listed and deleted. As expected" in shown
    assert "are free" in shown
    assert TargetState.objects.get(target=target).reachable
    assert list(tmp_path.rglob("*.age")) == []


def test_a_target_that_does_not_answer_says_so_without_its_secret(operator: Client) -> None:
    target = bucket()
    answer = press(operator, "test", target.pk, model="storagetarget")
    assert "It does not work." in text_of(answer)
    assert SECRET not in answer.content.decode()
    assert not TargetState.objects.get(target=target).reachable
    page = operator.get(LIST)
    assert "Not reachable" in text_of(page)
    assert SECRET not in page.content.decode()


def test_the_list_tells_space_sets_and_what_does_not_match(admin: Client) -> None:
    full = StorageTarget.objects.create(name="full", kind="local", path="/a")
    odd = StorageTarget.objects.create(name="odd", kind="local", path="/b")
    StorageTarget.objects.create(name="new", kind="local", path="/c")
    now = clock.now()
    TargetState.objects.create(
        target=full, checked_at=now, reachable=True, free_bytes=5 * 2**30, total_bytes=100 * 2**30
    )
    TargetState.objects.create(
        target=odd, checked_at=now, reachable=True, free_bytes=50, total_bytes=100, orphan_sets=2
    )
    shown = text_of(admin.get(LIST))
    assert "full /a local directory Nearly full 5 GiB 5% of 100 GiB" in shown
    assert "odd /b local directory Look at this" in shown
    assert "new /c local directory Not asked yet" in shown
    assert "2 sets without a record" in text_of(admin.get(change("storagetarget", odd.pk)))


def test_operators_test_targets_but_do_not_change_them(operator: Client) -> None:
    target = bucket()
    page = operator.get(change("storagetarget", target.pk))
    assert "Secret access key set" in text_of(page)
    assert 'name="secret"' not in page.content.decode()
    assert operator.post(change("storagetarget", target.pk), typed()).status_code == 403
    assert operator.get(f"{LIST}add/").status_code == 403


# --- controlled services -----------------------------------------------------------------------


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_only_administrators_write_commands_that_run_on_the_host(group: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(group)
    service = ControlledService.objects.create(name="app", stop_command="true", start_command="true")
    assert "true" in text_of(client.get(SERVICES))
    assert client.get(f"{SERVICES}add/").status_code == 403
    commands = {"name": "app", "stop_command": "reboot", "start_command": "true", "timeout_seconds": "60"}
    assert client.post(change("controlledservice", service.pk), commands).status_code == 403
    service.refresh_from_db()
    assert service.stop_command == "true"


def test_a_command_that_does_not_split_is_refused(admin: Client) -> None:
    commands = {"name": "app", "stop_command": "systemctl stop 'app", "start_command": "x", "timeout_seconds": "60"}
    answer = admin.post(f"{SERVICES}add/", commands)
    assert answer.status_code == 200
    assert list(answer.context["adminform"].form.errors) == ["stop_command"]
    assert ControlledService.objects.count() == 0
    assert admin.post(f"{SERVICES}add/", {**commands, "stop_command": "systemctl stop 'app'"}).status_code == 302


def test_an_empty_list_of_services_says_what_they_are_for(admin: Client) -> None:
    assert "A restore can stop services while data are swapped." in text_of(admin.get(SERVICES))
