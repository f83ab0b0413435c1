"""Unfinished uploads: aborted when nobody can finish them any more, never before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backups.errors import StorageRefused, StorageUnavailable
from backups.models import StorageTarget, TargetState
from backups.storage import open_target
from backups.storage.base import ObjectWriter, Storage, Upload
from backups.storage.janitor import abort_stale_uploads, stale_uploads, tidy
from backups.storage.state import check_target
from controlplane.kernel import clock
from tests.backups.factories import local_target, plan_of, record_of, short
from tests.backups.servers.s3 import S3Server

HOUR = timedelta(hours=1)
BLOCKS = b"x" * (17 * 2**20)


def prefix_of(name: str) -> str:
    return f"sets/zantara/2026/11/0193f0a0-0000-7000-8000-{name:0>12}"


@pytest.fixture(params=["local", "rclone"])
def target(request: pytest.FixtureRequest, tmp_path: Path, db: None) -> StorageTarget:
    if request.param == "local":
        return local_target(tmp_path / "store")
    server: S3Server = request.getfixturevalue("rclone_server")
    return StorageTarget.objects.create(name=f"s3-{short()}", **server.target_fields(server.make_bucket()))


@pytest.fixture
def writers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(storage: Storage, stack: ExitStack, key: str) -> ObjectWriter:
    writer = stack.enter_context(storage.open_writer(key))
    writer.write(BLOCKS)
    return writer


def wait_for_uploads(storage: Storage, count: int) -> None:
    assert len(list(storage.uploads(""))) == count


def test_only_uploads_whose_lease_is_dead_are_aborted(target: StorageTarget, writers: ExitStack) -> None:
    now = clock.now()
    plan, storage = plan_of(target), open_target(target)
    for name, state, lease in (
        ("a11", "running", now + HOUR),
        ("dead", "running", now - HOUR),
        ("0f0", "failed", None),
    ):
        record_of(plan, state=state, prefix=prefix_of(name), lease_expires_at=lease)
    begun = {
        name: begin(storage, writers, f"{prefix_of(name)}/files/part-00001.age")
        for name in ("a11", "dead", "0f0", "bee")
    }
    wait_for_uploads(storage, 4)

    aborted = tidy(target, now)

    assert sorted(upload.key for upload in aborted) == [
        f"{prefix_of(name)}/files/part-00001.age" for name in ("0f0", "dead")
    ]
    assert sorted(upload.key for upload in storage.uploads("")) == [
        f"{prefix_of(name)}/files/part-00001.age" for name in ("a11", "bee")
    ]
    begun["a11"].complete()
    assert storage.stat(f"{prefix_of('a11')}/files/part-00001.age") is not None
    # The worker that was given up for dead wakes, and can no longer make its object visible.
    with pytest.raises((StorageUnavailable, StorageRefused)):
        begun["dead"].complete()
    assert storage.stat(f"{prefix_of('dead')}/files/part-00001.age") is None


def test_an_upload_that_no_record_knows_of_has_a_day(target: StorageTarget, writers: ExitStack) -> None:
    storage = open_target(target)
    begin(storage, writers, f"{prefix_of('bee')}/files/part-00001.age")
    now = clock.now()
    assert tidy(target, now + timedelta(hours=23)) == []
    assert [upload.key for upload in tidy(target, now + timedelta(hours=25))] == [
        f"{prefix_of('bee')}/files/part-00001.age"
    ]
    assert list(storage.uploads("")) == []


def test_a_live_upload_is_kept_however_old_it_is() -> None:
    then = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
    uploads = [Upload(f"{prefix_of(name)}/a/part-00001.age", name, then) for name in ("1", "11", "2")]
    found = stale_uploads(uploads, [prefix_of("1")], then + HOUR)
    assert [upload.upload_id for upload in found] == ["11", "2"]
    assert list(stale_uploads(uploads, [prefix_of("1")], then - HOUR)) == []
    found = stale_uploads(uploads, [prefix_of("1")], then - HOUR, dead_prefixes=[prefix_of("1"), prefix_of("2")])
    assert [upload.upload_id for upload in found] == ["2"]


def test_an_upload_that_cannot_be_aborted_does_not_keep_the_others(tmp_path: Path) -> None:
    then = datetime.fromisoformat("2026-11-01T00:00:00+00:00")

    class Stubborn:
        def uploads(self, prefix: str) -> Iterator[Upload]:
            yield from (Upload(f"sets/{name}", name, then) for name in "abc")

        def abort_upload(self, upload: Upload) -> None:
            if upload.key == "sets/b":
                raise StorageRefused("no")

    aborted = abort_stale_uploads(Stubborn(), [], then + HOUR)  # type: ignore[arg-type]
    assert [upload.key for upload in aborted] == ["sets/a", "sets/c"]


def test_what_a_target_says_is_noted(target: StorageTarget, writers: ExitStack) -> None:
    now = clock.now()
    plan, storage = plan_of(target), open_target(target)
    record_of(plan, state="failed", prefix=prefix_of("0f0"))
    begin(storage, writers, f"{prefix_of('0f0')}/files/part-00001.age")
    storage.put(f"{prefix_of('caa')}/COMMIT", b"{}")
    record_of(plan, prefix=prefix_of("c0de"), at=now - HOUR)
    state = check_target(target, now)
    assert (state.reachable, state.message, state.checked_at) == (True, "", now)
    assert (state.orphan_sets, state.missing_sets, state.stale_uploads) == (1, 1, 1)
    assert (state.free_bytes is not None) == (target.kind == "local")
    assert TargetState.objects.get(target=target).orphan_sets == 1


def test_a_target_that_is_away_is_noted_and_its_last_figures_stay(target: StorageTarget) -> None:
    now = clock.now()
    open_target(target).put(f"{prefix_of('caa')}/COMMIT", b"{}")
    assert check_target(target, now).orphan_sets == 1
    if target.kind == "local":
        target.path += "-away"
    else:
        target.endpoint_url = "http://127.0.0.1:9"
    state = check_target(target, now + HOUR)
    assert not state.reachable
    assert "away" in state.message or "127.0.0.1:9" in state.message
    assert "hunter2" not in state.message
    assert (state.orphan_sets, state.checked_at) == (1, now + HOUR)
    assert TargetState.objects.filter(target=target).count() == 1


@pytest.mark.parametrize("name", ["rclone", "moto"])
def test_more_unfinished_uploads_than_a_page_holds_are_all_found(name: str, request: pytest.FixtureRequest) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    storage = server.storage(server.make_bucket(), prefix="some/where", page_size=5)
    wanted = sorted([f"{prefix_of(str(number))}/a" for number in range(12)] + [f"{prefix_of('3')}/a"])
    for key in wanted:
        storage.client.create_multipart_upload(**storage.place(key))
    assert sorted(upload.key for upload in storage.uploads("")) == wanted
    for upload in list(storage.uploads("sets/")):
        storage.abort_upload(upload)
    assert list(storage.uploads("")) == []
