"""The key of encrypted fields is lost or another one: every page still opens, and secrets can be entered again."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import Client

from backups.models import BackupPlan, BackupSource, StorageTarget
from backups.sources.base import kinds

from . import rows
from .pages import change, press, text_of


@pytest.fixture
def another_key(settings: Any) -> Any:
    """Secrets are written with one key; ``lose()`` puts another in its place."""

    def lose() -> None:
        settings.ZANTARA_FIELDS_KEY = Fernet.generate_key().decode()

    return lose


@pytest.fixture
def world(admin: Client) -> dict[str, Any]:
    plan = rows.make_plan()
    target = StorageTarget.objects.create(
        name="bucket", kind="s3", bucket="b-b", endpoint_url="http://127.0.0.1:9", secret_access_key="old"
    )
    BackupPlan.objects.filter(pk=plan.pk).update(target=target)
    plan.refresh_from_db()
    settings = kinds.get("memory_vectors").clean({"url": "http://127.0.0.1:9/export"}, {"token": "old"})
    source = BackupSource.objects.create(
        name="vectors", kind="memory_vectors", settings=settings, secrets={"token": "old"}
    )
    return {"plan": plan, "target": target, "source": source, "record": rows.make_set(plan, level=3)}


def test_every_page_opens(admin: Client, world: dict[str, Any], another_key: Any) -> None:
    another_key()
    for path in (
        "backuprecord/", f"backuprecord/{world['record'].pk}/change/", "backupplan/",
        f"backupplan/{world['plan'].pk}/change/", "backupsource/", f"backupsource/{world['source'].pk}/change/",
        "storagetarget/", f"storagetarget/{world['target'].pk}/change/", "health/", f"restore/{world['record'].pk}/",
    ):  # fmt: skip
        assert admin.get(f"/admin/backups/{path}").status_code == 200, path
    assert "Last saved" in text_of(admin.get("/admin/"))


def test_a_target_gets_its_secret_again(admin: Client, world: dict[str, Any], another_key: Any) -> None:
    another_key()
    target = world["target"]
    page = change("storagetarget", target.pk)
    assert "this installation's key does not open it" in text_of(admin.get(page))
    typed = {
        "name": "bucket", "kind": "s3", "path": "", "endpoint_url": "http://127.0.0.1:9", "bucket": "b-b",
        "prefix": "", "region": "us-east-1", "checksum_mode": "when_required", "access_key_id": "key",
        "secret": "newer",
    }  # fmt: skip
    assert list(admin.post(page, {**typed, "secret": ""}).context["adminform"].form.errors) == ["secret"]
    assert admin.post(page, typed).status_code == 302
    assert StorageTarget.objects.get(pk=target.pk).secret_access_key == "newer"


def test_a_source_gets_its_secret_again_and_is_not_robbed_of_it_meanwhile(
    admin: Client, world: dict[str, Any], another_key: Any, settings: Any
) -> None:
    before = settings.ZANTARA_FIELDS_KEY
    another_key()
    source = world["source"]
    page = change("backupsource", source.pk)
    assert "this installation's key does not open it" in text_of(admin.get(page))
    assert "It does not work." in text_of(press(admin, "test_connection", source.pk, model="backupsource"))
    typed = {"name": "vectors", "enabled": "on", "set_url": "http://127.0.0.1:10/export", "set_token": ""}
    assert admin.post(page, typed).status_code == 302
    lost = settings.ZANTARA_FIELDS_KEY
    settings.ZANTARA_FIELDS_KEY = before
    kept = BackupSource.objects.get(pk=source.pk)
    assert (kept.settings["url"], kept.secrets) == ("http://127.0.0.1:10/export", {"token": "old"})
    settings.ZANTARA_FIELDS_KEY = lost
    admin.post(page, {**typed, "set_token": "newer"})
    assert BackupSource.objects.get(pk=source.pk).secrets == {"token": "newer"}
