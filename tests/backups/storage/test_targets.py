"""Rows of targets: what is refused before anybody is asked, and what the store of a row is."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings

from backups.errors import StorageRefused, StorageUnavailable
from backups.models import StorageTarget
from backups.storage import open_target
from backups.storage.connection import Connection
from backups.storage.local import MARK, LocalStorage
from backups.storage.s3 import S3Storage
from backups.storage.targets import check_settings, connection_of, local_root
from tests.backups.factories import local_target, plan_of, record_of
from tests.backups.servers.s3 import S3Server

S3 = {"kind": "s3", "name": "s3", "bucket": "my-bucket", "region": "us-east-1"}


def wrong(**fields: object) -> list[str]:
    return [field for field, _ in check_settings(StorageTarget(**fields))]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": "Upper"}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"bucket": "a..b"}, "bucket"),
        ({"prefix": "../x"}, "prefix"),
        ({"prefix": "a b"}, "prefix"),
        ({"region": ""}, "region"),
        ({"region": "us east"}, "region"),
        ({"access_key_id": "AKIA"}, "secret_access_key"),
        ({"secret_access_key": "hunter2"}, "access_key_id"),
        ({"endpoint_url": "s3.example.org"}, "endpoint_url"),
        ({"endpoint_url": "ftp://s3.example.org"}, "endpoint_url"),
        ({"endpoint_url": "http://:9000"}, "endpoint_url"),
        ({"endpoint_url": "http://host:99999"}, "endpoint_url"),
        ({"endpoint_url": "https://key:hunter2@s3.example.org"}, "endpoint_url"),
        ({"endpoint_url": "https://s3.example.org/bucket"}, "endpoint_url"),
        ({"endpoint_url": "https://s3.example.org?x=1"}, "endpoint_url"),
    ],
)
def test_settings_of_a_bucket_that_make_no_sense_are_told_by_field(fields: dict[str, str], field: str) -> None:
    assert wrong(**{**S3, **fields}) == [field]
    target = StorageTarget(**{**S3, **fields})
    with pytest.raises(StorageRefused, match=field) as caught:
        open_target(target)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prefix": "zantara"},
        {"prefix": "/some/where/"},
        {"endpoint_url": "http://127.0.0.1:9000"},
        {"endpoint_url": "https://s3.example.org/"},
        {"access_key_id": "AKIA", "secret_access_key": "hunter2"},
        {"region": "eu-central-1"},
    ],
)
def test_settings_of_a_bucket_that_make_sense_pass(fields: dict[str, str]) -> None:
    assert wrong(**{**S3, **fields}) == []


def test_settings_of_a_directory_that_make_no_sense_are_told(tmp_path: Path) -> None:
    data = str(settings.ZANTARA_DATA_DIR)
    for path in ("", " ", "../x", "/a/../b", ".", data, str(Path(data).parent), "/"):
        assert wrong(kind="local", path=path) == ["path"], path
    for path in ("backups", "a/b", str(tmp_path), f"{data}/backups"):
        assert wrong(kind="local", path=path) == [], path


def test_a_row_becomes_the_connection_that_django_storages_configures(
    monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another key")
    monkeypatch.setenv("AWS_S3_SESSION_PROFILE", "of another account")
    settings.AWS_S3_OBJECT_PARAMETERS = {"StorageClass": "STANDARD_IA"}  # type: ignore[attr-defined]
    target = StorageTarget(
        **S3, endpoint_url="http://127.0.0.1:9", path_style=True, checksum_mode="when_supported",
        access_key_id="AKIAEXAMPLE", secret_access_key="hunter2", prefix="/pre/fix/",
    )  # fmt: skip
    assert connection_of(target) == Connection(
        "my-bucket", "us-east-1", "http://127.0.0.1:9", True, "when_supported", "AKIAEXAMPLE", "hunter2"
    )
    storage = open_target(target)
    assert isinstance(storage, S3Storage)
    config = storage.client.meta.config
    assert storage.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert storage.client.meta.region_name == "us-east-1"
    assert config.s3["addressing_style"] == "path"
    assert config.request_checksum_calculation == "when_supported"
    assert config.response_checksum_validation == "when_supported"
    assert storage.parameters == {"StorageClass": "STANDARD_IA"}
    assert storage.place("sets/a") == {"Bucket": "my-bucket", "Key": "pre/fix/sets/a"}
    credentials = storage.client._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("AKIAEXAMPLE", "hunter2", None)
    assert "hunter2" not in f"{storage!r} {vars(storage)} {storage.client!r}"


def test_without_a_key_the_machines_own_credentials_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEMACHINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter3")
    storage = open_target(StorageTarget(**S3))
    assert isinstance(storage, S3Storage)
    credentials = storage.client._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key) == ("AKIAOFTHEMACHINE", "hunter3")
    assert storage.client.meta.config.request_checksum_calculation == "when_required"


def test_a_row_of_a_real_server_works(rclone_server: S3Server) -> None:
    storage = open_target(
        StorageTarget(name="s3", prefix="p", **rclone_server.target_fields(rclone_server.make_bucket()))
    )
    storage.check()
    storage.put("sets/a", b"x")
    assert storage.get("sets/a") == b"x"


def test_checksums_by_boto_work_where_the_server_knows_them(moto_server: S3Server) -> None:
    storage = moto_server.storage(moto_server.make_bucket(), checksum_mode="when_supported")
    storage.check()
    with storage.open_writer("sets/a") as writer:
        writer.write(b"x" * 40 * 2**20)
        writer.complete()
    assert storage.stat("sets/a").size == 40 * 2**20
    assert storage.get("sets/a") == b"x" * 40 * 2**20


@pytest.mark.django_db
def test_a_relative_directory_is_made_in_the_data_directory_and_another_must_be_there(tmp_path: Path) -> None:
    target = StorageTarget(name="here", kind="local", path="stores/here")
    assert local_root(target) == Path(settings.ZANTARA_DATA_DIR) / "stores/here"
    storage = open_target(target)
    assert isinstance(storage, LocalStorage)
    storage.check()
    assert storage.root.stat().st_mode & 0o777 == 0o700
    away = open_target(StorageTarget(name="away", kind="local", path=str(tmp_path / "away")))
    for act in (away.check, lambda: away.put("sets/a", b"x"), lambda: away.stat("sets/a"), lambda: away.get("sets/a")):
        with pytest.raises(StorageRefused, match="Create it, or mount"):
            act()
    assert not (tmp_path / "away").exists()


@pytest.mark.django_db
def test_a_directory_that_holds_sets_must_bear_its_mark(tmp_path: Path) -> None:
    target = local_target(tmp_path / "store")
    storage = open_target(target)
    storage.put("sets/a", b"x")
    record_of(plan_of(target))
    assert open_target(target).get("sets/a") == b"x"
    (tmp_path / "store" / MARK).unlink()
    with pytest.raises(StorageUnavailable, match="Mount its disk"):
        open_target(target).stat("sets/b")
    assert open_target(target).get("sets/a") == b"x"
    (tmp_path / "store" / MARK).touch()
    assert open_target(target).stat("sets/b") is None
