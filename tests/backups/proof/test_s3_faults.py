"""A bucket whose server errs, hangs up or refuses: nothing is learned, and nothing is called damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backups import keys
from backups.models import BackupRecord, StorageTarget
from backups.proof import run
from controlplane.notifications.models import Message
from tests.backups import factories
from tests.backups.servers.faults import FaultProxy, fault_proxy
from tests.backups.servers.s3 import S3Server

from .conftest import CONTENTS
from .seeing import artifact, proven, said

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("identity")]


@pytest.fixture
def proxy(rclone_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(rclone_server.url) as found:
        yield found


@pytest.fixture
def far(
    tmp_path: Any, transactional_db: None, rclone_server: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> BackupRecord:
    """A committed set in a bucket, which proofs reach through the proxy."""
    keys.ensure_keys()
    bucket = rclone_server.make_bucket()
    target = StorageTarget.objects.create(name="far", **rclone_server.target_fields(bucket))
    source = factories.files_source(tmp_path / "uploads", name="uploads", contents=CONTENTS)
    record = factories.run_now(factories.plan_of(target, [source], name="zantara"))
    assert record.state == "committed", record.error
    monkeypatch.setattr(run, "open_target", lambda _: rclone_server.storage(bucket, url=proxy.url))
    return record


ALWAYS: dict[str, Any] = {"times": 1000}
NOTHING_LEARNED: dict[str, tuple[str, dict[str, Any]]] = {
    "the manifest is answered with 500": ("GetObject", {"key": "manifest.json", "status": 500, **ALWAYS}),
    "COMMIT is answered with 503": ("GetObject", {"key": "COMMIT", "status": 503, "code": "SlowDown", **ALWAYS}),
    "the sizes are answered with 500": ("HeadObject", {"status": 500, **ALWAYS}),
    "a part is answered with 500": ("GetObject", {"key": "part-00001", "status": 500, **ALWAYS}),
    "a part's connection is reset": ("GetObject", {"key": "part-00001", "reset": True, **ALWAYS}),
    "a part is cut again and again": ("GetObject", {"key": "part-00001", "cut_after": 0, **ALWAYS}),
    "the credentials are refused": ("GetObject", {"status": 403, "code": "AccessDenied", **ALWAYS}),
    "the bucket is gone": ("GetObject", {"status": 404, "code": "NoSuchBucket", **ALWAYS}),
}


@pytest.mark.parametrize("name", NOTHING_LEARNED)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_nothing_is_learned_from_a_server_that_errs(
    far: BackupRecord, proxy: FaultProxy, name: str, level: int
) -> None:
    operation, act = NOTHING_LEARNED[name]
    proxy.on(operation, **act)
    proof = proven(far, level)
    proxy.assert_all_fired()
    assert (proof.state, said(proof, "fail")) == ("unknown", [])
    assert proof.error
    assert artifact(far).damaged_at is None
    assert not Message.objects.filter(kind="proof_failed").exists()
    proxy.faults.clear()
    assert proven(far, level).state == "passed"


@pytest.mark.parametrize("act", [{"status": 500}, {"reset": True}, {"cut_after": 1000}], ids=["500", "reset", "cut"])
def test_a_fault_that_passes_costs_a_repetition_only(far: BackupRecord, proxy: FaultProxy, act: dict[str, Any]) -> None:
    proxy.on("GetObject", key="part-00001", times=1, **act)
    assert proven(far, 3).state == "passed"
    proxy.assert_all_fired()


def test_an_object_that_the_server_says_is_gone_is_damage(far: BackupRecord, proxy: FaultProxy) -> None:
    proxy.on("HeadObject", key="part-00001", status=404, code="NoSuchKey", **ALWAYS)
    proof = proven(far, 0)
    proxy.assert_all_fired()
    assert proof.state == "failed"
    assert "part-00001.age is missing" in artifact(far).damage
