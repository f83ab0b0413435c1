"""What we store opens with the commands that every distribution has, and with nothing of ours."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from backups.storage.local import LocalStorage
from backups.stream import get_expectations, put_expectations
from tests import needs

from .tools import FOLDER, Key, keep, noise, part_file, text


def piped(line: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, check=False, cwd=folder)


@pytest.fixture(autouse=True)
def tools() -> None:
    needs.command("age", package="age")
    needs.command("zstd", package="zstd")


def test_age_and_zstd_open_it(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    data = text(3_000_000) + noise(500_000)
    keep(store, data, key, part_bytes=200_000)
    done = piped(f"cat {store.root / FOLDER}/part-*.age | age -d -i {key.file(tmp_path)} | zstd -d", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_age_alone_opens_what_is_not_compressed(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    keep(store, noise(500_000), key, level=None)
    done = piped(f"cat {store.root / FOLDER}/part-*.age | age -d -i {key.file(tmp_path)}", tmp_path)
    assert (done.returncode, done.stdout) == (0, noise(500_000))


def test_the_frame_has_a_checksum_and_is_one(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    keep(store, text(3_000_000), key)
    piped(f"age -d -i {key.file(tmp_path)} {part_file(store, 1)} > x.zst", tmp_path)
    done = piped("zstd -lv x.zst", tmp_path)
    assert b"# Zstandard Frames: 1" in done.stdout
    assert b"Check: XXH64" in done.stdout


def test_a_tar_comes_out_as_files(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("kept")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.txt", "conf/a.txt")
    keep(store, (tmp_path / "t.tar").read_bytes(), key)
    (tmp_path / "out").mkdir()
    line = f"cat {store.root / FOLDER}/part-*.age | age -d -i {key.file(tmp_path)} | zstd -d | tar -x -C out"
    assert piped(line, tmp_path).returncode == 0
    assert (tmp_path / "out/conf/a.txt").read_text() == "kept"


def test_a_cut_part_makes_the_pipe_fail(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    keep(store, noise(500_000), key, part_bytes=200_000)
    part_file(store, 3).unlink()
    line = f"cat {store.root / FOLDER}/part-*.age | age -d -i {key.file(tmp_path)} | zstd -d | cat > out"
    assert piped(line, tmp_path).returncode != 0


def test_what_age_and_zstd_wrote_we_read(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    from hashlib import sha256

    from .tools import Kept, read

    data = text(1_000_000)
    (tmp_path / "plain").write_bytes(data)
    piped(f"zstd -3 --stdout plain | age -r {key.public} > sealed", tmp_path)
    body = (tmp_path / "sealed").read_bytes()
    with store.open_writer(f"{FOLDER}/part-00001.age") as writer:
        writer.write(body)
        writer.complete()
    from backups.stream import Part

    digest = sha256(body).hexdigest()
    part = Part("part-00001.age", len(body), digest)
    assert read(store, Kept("files", True, len(data), sha256(data).hexdigest(), digest, (part,)), key) == data


def test_expectations_open_with_stock_tools_too(store: LocalStorage, key: Key, tmp_path: Path) -> None:
    wanted = {"files": {"ä.txt": {"size": 3}, "\udcff": {"size": 0}}, "rows": 12}
    ref = put_expectations(store, FOLDER, wanted, [key.public])
    assert get_expectations(store, FOLDER, ref, key.identity) == wanted
    done = piped(f"age -d -i {key.file(tmp_path)} {store.root / FOLDER / ref['object']} | zstd -d", tmp_path)
    assert json.loads(done.stdout) == wanted
