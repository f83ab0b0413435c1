"""What tests of the engine look at: the store as it is, and whether what is in it can be read."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backups import keys
from backups.manifest import COMMIT, load_set
from backups.models import BackupRecord, StorageTarget
from backups.storage import open_target
from backups.stream import get_expectations, open_stream
from tests.kernel.racing import database_url


def identity() -> keys.Identity:
    return keys.identity_from_file(keys.recovery_key_file())


def restored_files(record: BackupRecord) -> dict[str, bytes]:
    """Every file of the record's files sources, out of the store, hashes and signature checked on the way."""
    record.refresh_from_db()
    storage = open_target(record.target)
    manifest = load_set(storage, record.prefix)
    assert manifest.name == record.name
    found: dict[str, bytes] = {}
    for artifact in manifest.artifacts:
        folder = f"{record.prefix}/{artifact.name}"
        plain = b"".join(open_stream(storage, folder, artifact, identity()))
        assert get_expectations(storage, folder, artifact.expectations, identity())
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            for member in tar:
                if member.isfile():
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name.removeprefix("./")] = file.read()
    return found


def prefixes(target: StorageTarget) -> dict[str, set[str]]:
    """Prefix of each set folder in the store -> what is in it."""
    found: dict[str, set[str]] = {}
    for info in open_target(target).list("sets/"):
        parts = info.key.split("/")
        found.setdefault("/".join(parts[:5]), set()).add("/".join(parts[5:]))
    return found


def half_visible(target: StorageTarget) -> list[str]:
    """Sets with a COMMIT that cannot be read whole: there is never to be one."""
    storage, bad = open_target(target), []
    for prefix, objects in prefixes(target).items():
        if COMMIT not in objects:
            continue
        try:
            manifest = load_set(storage, prefix)
            if not set(manifest.objects()) <= objects:
                bad.append(prefix)
        except Exception as error:  # noqa: BLE001  (whatever it is, the set looks whole and is not)
            bad.append(f"{prefix}: {error}")
    return bad


def left_over(target: StorageTarget) -> list[str]:
    """What is in the store, or in scratch, and belongs to no restore point that exists."""
    kept = set(BackupRecord.objects.filter(state__in=("committed", "expiring")).values_list("prefix", flat=True))
    found = [prefix for prefix in prefixes(target) if prefix not in kept]
    found += [upload.key for upload in open_target(target).uploads("sets/")]
    return found


def start_worker(action: str, pk: int, *options: str, kill_at: str = "", proof: Path | None = None) -> Any:
    environment = {**os.environ, "ZANTARA_DATABASE_URL": database_url(), "PYTHONWARNINGS": "ignore"}
    if kill_at:
        environment |= {"ZANTARA_TEST_KILL_AT": kill_at, "ZANTARA_TEST_KILLED": str(proof)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.backups.engine.worker", action, str(pk), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


@contextmanager
def worker(action: str, pk: int, *options: str, kill_at: str = "", proof: Path | None = None) -> Iterator[Any]:
    process = start_worker(action, pk, *options, kill_at=kill_at, proof=proof)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate(timeout=20)


def killed_at(step: str, action: str, pk: int, proof: Path) -> None:
    """Run a worker that is killed at ``step``; fails where the fault did not fire."""
    with worker(action, pk, kill_at=step, proof=proof) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, f"{out}{err}"
    assert proof.read_text() == step
    proof.unlink()


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while (state := Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]) != "T":
        assert time.monotonic() < deadline, f"the worker did not stop: {state}"
        assert state != "Z", "the worker ended before it got there"
        time.sleep(0.05)
