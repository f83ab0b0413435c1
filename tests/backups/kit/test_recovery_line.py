"""The line that restores without us, carried out to the letter by a shell that has only stock tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backups import keys
from backups.models import Artifact, BackupRecord, StorageTarget
from backups.recovery_line import expectations_line, line, line_for
from backups.storage import open_target
from backups.stream import store_stream
from tests import needs
from tests.backups import factories
from tests.backups.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server

from .conftest import CONTENTS

PATH = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not p.startswith(sys.prefix))


@pytest.fixture(autouse=True)
def stock_tools() -> None:
    for name in ("age", "zstd", "tar", "curl", "bash"):
        needs.command(name, package=name)


def shell(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """No variable of ours, and nothing of our virtual environment on PATH."""
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(["bash", "-c", text], cwd=folder, env=environment, capture_output=True, check=False)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "recovery_key.txt"
    }


def split(record: BackupRecord, target: StorageTarget, *, level: int | None = 3) -> tuple[Artifact, dict[str, bytes]]:
    """A files artifact in many parts, stored in the target by the real stream."""
    import io
    import random
    import tarfile

    contents = {f"data/{n}.bin": random.Random(n).randbytes(20_000) for n in range(12)}
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    stored, _ = store_stream(
        [body.getvalue()], storage=open_target(target), folder=f"{record.prefix}/uploads",
        recipients=keys.recipients(), level=level, finish=lambda: None, part_bytes=20_000,
    )  # fmt: skip
    assert len(stored.parts) > 10
    parts = [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in stored.parts]
    return Artifact(record=record, name="uploads", kind="files", compressed=level is not None, parts=parts), contents


def test_a_local_set_comes_back(record: BackupRecord, recovery: Path) -> None:
    text = line_for(Artifact.objects.get(record=record), record)
    assert " | age --decrypt --identity recovery_key.txt | zstd --decompress --stdout | tar --extract " in text
    done = shell(text, recovery)
    assert (done.returncode, done.stderr) == (0, b"")
    assert files_below(recovery) == CONTENTS


@pytest.mark.parametrize("level", [3, None])
def test_many_parts_come_back_in_their_order(record: BackupRecord, recovery: Path, level: int | None) -> None:
    artifact, contents = split(record, record.target, level=level)
    done = shell(line_for(artifact, record), recovery)
    assert done.returncode == 0, done.stderr
    assert files_below(recovery) == contents


def test_the_line_fails_where_a_part_is_missing_or_cut(record: BackupRecord, recovery: Path) -> None:
    artifact, _ = split(record, record.target)
    folder = Path(record.target.path) / record.prefix / "uploads"
    last = sorted(folder.glob("part-*.age"))[-1]
    body = last.read_bytes()
    last.write_bytes(body[:-1])
    assert shell(line_for(artifact, record), recovery).returncode != 0
    last.unlink()
    assert shell(line_for(artifact, record), recovery).returncode != 0


def test_another_key_opens_nothing(record: BackupRecord, recovery: Path) -> None:
    import pyrage

    (recovery / "recovery_key.txt").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    assert shell(line_for(Artifact.objects.get(record=record), record), recovery).returncode != 0
    assert files_below(recovery) == {}


def test_what_a_set_should_hold_is_shown_too(record: BackupRecord, recovery: Path) -> None:
    artifact = Artifact.objects.get(record=record)
    text = expectations_line(artifact, record.target, f"{record.prefix}/{artifact.name}")
    assert set(json.loads(shell(text, recovery).stdout)["entries"]) >= set(CONTENTS)


def test_a_kind_that_this_version_does_not_know_is_still_bytes(record: BackupRecord, recovery: Path) -> None:
    artifact = Artifact.objects.get(record=record)
    artifact.kind = "floppy"
    assert shell(line_for(artifact, record), recovery).returncode == 0
    assert (recovery / "restored").stat().st_size == artifact.plain_bytes


@pytest.mark.parametrize("server_name", ["rclone_server", "moto_server"])
@pytest.mark.parametrize("prefix", ["", "some/where"])
def test_a_set_in_a_bucket_comes_back_by_curl(
    server_name: str, prefix: str, record: BackupRecord, recovery: Path, request: pytest.FixtureRequest
) -> None:
    server: S3Server = request.getfixturevalue(server_name)
    target = StorageTarget.objects.create(
        name=f"bucket-{factories.short()}", prefix=prefix, **server.target_fields(server.make_bucket())
    )
    artifact, contents = split(record, target)
    text = line(artifact, target, f"{record.prefix}/uploads")
    assert SECRET_KEY not in text
    done = shell(text, recovery, AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    assert done.returncode == 0, done.stderr
    assert files_below(recovery) == contents
    open_target(target).delete([f"{record.prefix}/uploads/part-00003.age"])
    done = shell(text, recovery, AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    assert done.returncode != 0


def test_a_wrong_secret_opens_nothing(record: BackupRecord, recovery: Path, rclone_server: S3Server) -> None:
    target = StorageTarget.objects.create(name="b", **rclone_server.target_fields(rclone_server.make_bucket()))
    artifact, _ = split(record, target)
    text = line(artifact, target, f"{record.prefix}/uploads")
    assert shell(text, recovery, AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY="wrong").returncode != 0


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"region": "eu-central-1"}, "https://sets.s3.eu-central-1.amazonaws.com/"),
        ({"region": "eu-central-1", "path_style": True}, "https://s3.eu-central-1.amazonaws.com/sets/"),
        ({"endpoint_url": "https://s3.example.org:9000/"}, "https://sets.s3.example.org:9000/"),
        ({"endpoint_url": "https://s3.example.org", "path_style": True}, "https://s3.example.org/sets/"),
        ({"endpoint_url": "https://s3.example.org", "prefix": "/x/"}, "https://sets.s3.example.org/x/"),
    ],
)
def test_where_a_bucket_is(fields: dict[str, object], url: str) -> None:
    target = StorageTarget(kind="s3", bucket="sets", **{"region": "us-east-1", **fields})  # type: ignore[arg-type]
    artifact = Artifact(name="files", kind="files", parts=[{"name": "part-00001.age"}] * 12)
    assert f" {url}p/files/part-[00001-00012].age'" in line(artifact, target, "p/files").replace(" 'http", " http")


def test_a_large_tree_comes_back_and_no_program_of_the_pipe_complains(tmp_path: Path, recovery: Path, db: None) -> None:
    """tar pads what it writes to whole records, and must not end before it has read them."""
    contents = {f"{n}.log": f"line {n}\n".encode() * 200_000 for n in range(12)}
    source = factories.files_source(tmp_path / "logs", name="logs", contents=contents)
    record = factories.run_now(factories.plan_of(factories.local_target(tmp_path / "store"), [source]))
    done = shell(line_for(Artifact.objects.get(record=record), record), recovery)
    assert (done.returncode, done.stderr) == (0, b"")
    assert files_below(recovery) == contents
