"""A restore of files that is stopped at each single step of the file system, and goes on or back from there."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backups.errors import RestoreFailed
from backups.sources.base import Place, Restorer
from backups.sources.files import FilesSource
from tests import needs
from tests.backups.contracts.taking import Taken, assert_good, failing, fresh, pieces, take
from tests.backups.contracts.worlds import tree

pytestmark = pytest.mark.faults


class Box:
    """A captured tree that has been changed in every way since."""

    def __init__(self, tmp_path: Path) -> None:
        self.base, self.folder = tmp_path / "base", tmp_path / "work"
        self.base.mkdir()
        self.folder.mkdir()
        for name in ("changed", "same", "d/deep/removed", "d/file-now-directory", "d/link-now-file", "was/file"):
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            (self.base / name).write_text(f"captured {name}")
        (self.base / "d" / "link-now-file").unlink()
        (self.base / "d" / "link-now-file").symlink_to("deep")
        (self.base / "d" / "empty").mkdir()
        self.source = FilesSource("f", FilesSource.clean({"base": str(self.base), "patterns": ["."]}, {}), {})
        self.taken: Taken = take(self.source, self.folder)
        self.captured = self.look()
        (self.base / "changed").write_text("live")
        (self.base / "d" / "deep" / "removed").unlink()
        (self.base / "d" / "deep").rmdir()
        (self.base / "d" / "empty").rmdir()
        (self.base / "d" / "file-now-directory").unlink()
        (self.base / "d" / "file-now-directory").mkdir()
        (self.base / "d" / "file-now-directory" / "inner").write_text("live")
        (self.base / "d" / "link-now-file").unlink()
        (self.base / "d" / "link-now-file").write_text("live")
        (self.base / "was" / "file").unlink()
        (self.base / "was").rmdir()
        (self.base / "was").write_text("a file where a directory was")
        (self.base / "new").write_text("came since")
        self.live = self.look()

    def look(self) -> dict[str, Any]:
        return {name: entry for name, entry in tree(self.base).items() if not name.startswith(".zantara-restore-")}

    @property
    def wanted(self) -> dict[str, Any]:
        """What came since stays, as far as nothing of the backup has its place."""
        return self.captured | {"new": self.live["new"]}

    def restorer(self) -> Restorer:
        restorer = self.source.restorer(Place(self.folder, "token"))
        restorer.memory = dict(self.memory)
        return restorer

    def prepare(self) -> None:
        restorer = self.source.restorer(Place(self.folder, "token"))
        restorer.prepare(pieces(self.taken.data))
        assert_good(restorer.validate(self.taken.expectations))
        self.memory = restorer.memory


class Stopped(BaseException):
    """The process is gone: no handler of errors may see this."""


@contextmanager
def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Count what changes the file system, and stop before the change with this number."""
    count = 0

    def watched(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                raise Stopped
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "link", "mkdir", "rmdir", "unlink"):
            patched.setattr(os, name, watched(getattr(os, name)))
        yield lambda: count >= step


def steps_of(what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    count = 0

    def counting(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "link", "mkdir", "rmdir", "unlink"):
            patched.setattr(os, name, counting(getattr(os, name)))
        what()
    return count


def test_a_swap_that_stops_anywhere_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(fresh(tmp_path, "count"))
    box.prepare()
    total = steps_of(lambda: box.restorer().swap(), monkeypatch)
    assert box.look() == box.wanted
    assert total > 10
    for step in range(1, total + 1):
        box = Box(fresh(tmp_path, str(step)))
        box.prepare()
        with stopping_at(step, monkeypatch) as stopped, pytest.raises(Stopped):
            box.restorer().swap()
        assert stopped()
        box.restorer().swap()
        assert box.look() == box.wanted, f"stopped at {step} of {total}"
        box.restorer().discard()
        assert tree(box.base) == box.wanted


def test_a_swap_that_stops_anywhere_can_be_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(fresh(tmp_path, "count"))
    box.prepare()
    total = steps_of(lambda: box.restorer().swap(), monkeypatch)
    for step in range(1, total + 2):
        box = Box(fresh(tmp_path, str(step)))
        box.prepare()
        with stopping_at(step, monkeypatch):
            try:
                box.restorer().swap()
            except Stopped:
                assert step <= total
        for _ in range(2):
            box.restorer().undo()
            assert box.look() == box.live, f"stopped at {step} of {total}"
        box.restorer().discard()
        assert tree(box.base) == box.live


def test_an_undo_that_stops_anywhere_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(fresh(tmp_path, "count"))
    box.prepare()
    box.restorer().swap()
    total = steps_of(lambda: box.restorer().undo(), monkeypatch)
    assert total > 10
    for step in range(1, total + 1):
        box = Box(fresh(tmp_path, str(step)))
        box.prepare()
        box.restorer().swap()
        with stopping_at(step, monkeypatch) as stopped, pytest.raises(Stopped):
            box.restorer().undo()
        assert stopped()
        box.restorer().undo()
        assert box.look() == box.live, f"stopped at {step} of {total}"
        box.restorer().discard()
        assert tree(box.base) == box.live


def mounted(path: Path, *options: str) -> None:
    answer = subprocess.run(["mount", *options, str(path)], capture_output=True, check=False)
    if answer.returncode != 0:
        needs.leave_out(f"nothing can be mounted: {answer.stderr.decode().strip()}")


def test_files_on_mounts_below_the_base_come_back_too(tmp_path: Path) -> None:
    """A directory of another file system, and a single bound file as containers have their .env."""
    base, folder, outside = (fresh(tmp_path, name) for name in ("base", "folder", "outside"))
    (outside / "env").write_text("captured")
    (base / ".env").write_text("")
    (base / "data").mkdir()
    mounted(base / ".env", "--bind", str(outside / "env"))
    try:
        mounted(base / "data", "-t", "tmpfs", "tmpfs")
        try:
            (base / "data" / "a").write_text("captured")
            source = FilesSource("f", FilesSource.clean({"base": str(base), "patterns": [".env", "data"]}, {}), {})
            taken = take(source, folder)
            for text, end in (("live one", "swap"), ("live two", "undo")):
                (outside / "env").write_text(text)
                (base / "data" / "a").write_text(text)
                restorer = source.restorer(Place(folder, "token"))
                restorer.prepare(pieces(taken.data))
                restorer.swap()
                assert (outside / "env").read_text() == (base / "data" / "a").read_text() == "captured"
                if end == "undo":
                    restorer.undo()
                    restorer.undo()
                    assert (outside / "env").read_text() == (base / "data" / "a").read_text() == "live two"
                restorer.discard()
                assert sorted(path.name for path in base.rglob("*")) == [".env", "a", "data"]
        finally:
            subprocess.run(["umount", str(base / "data")], check=True)
    finally:
        subprocess.run(["umount", str(base / ".env")], check=True)


def test_a_full_disk_stops_the_restore_before_anything_is_touched(tmp_path: Path) -> None:
    base, folder = fresh(tmp_path, "base"), fresh(tmp_path, "folder")
    mounted(base, "-t", "tmpfs", "-o", "size=3m", "tmpfs")
    try:
        (base / "a").write_bytes(os.urandom(2_000_000))
        source = FilesSource("f", FilesSource.clean({"base": str(base), "patterns": ["."]}, {}), {})
        taken = take(source, folder)
        before = tree(base)
        restorer = source.restorer(Place(folder, "token"))
        assert "bytes are free" in failing(restorer.preflight(len(taken.data)))
        with pytest.raises(OSError) as caught:
            restorer.prepare(pieces(taken.data))
        assert caught.value.errno == errno.ENOSPC
        restorer.undo()
        restorer.discard()
        assert tree(base) == before
    finally:
        subprocess.run(["umount", str(base)], check=True)


def test_a_swap_without_anything_prepared_is_refused(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.memory = {}
    with pytest.raises(RestoreFailed, match="Nothing stands"):
        box.restorer().swap()
    assert box.look() == box.live


def test_owners_come_back_where_we_are_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        needs.leave_out("only root may give files away")
    base, folder = fresh(tmp_path, "base"), fresh(tmp_path, "folder")
    (base / ".env").write_text("x")
    os.chown(base / ".env", 1234, 4321)
    source = FilesSource("f", FilesSource.clean({"base": str(base), "patterns": [".env"]}, {}), {})
    taken = take(source, folder)
    (base / ".env").unlink()
    restorer = source.restorer(Place(folder, "token"))
    restorer.prepare(pieces(taken.data))
    restorer.swap()
    assert ((base / ".env").stat().st_uid, (base / ".env").stat().st_gid) == (1234, 4321)
