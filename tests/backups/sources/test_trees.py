"""Files and logs: what is scanned, what happens to files that move under the reader, what comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from backups.errors import CaptureFailed
from backups.sources.base import Place
from backups.sources.files import FilesSource
from backups.sources.logs import LogsSource
from backups.sources.tar_tree import SMALL_TREE_BYTES, capture_tree, scan
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused
from tests.backups.contracts.taking import Taken, assert_good, drill, failing, finish, fresh, pieces, take
from tests.backups.contracts.worlds import tree


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def files(base: Path, *patterns: str, **settings: Any) -> FilesSource:
    cleaned = FilesSource.clean({"base": str(base), "patterns": list(patterns), **settings}, {})
    return FilesSource("files", cleaned, {})


def names(taken: Taken) -> list[str]:
    return list(taken.expectations["entries"])


def test_the_default_is_the_configuration_and_a_missing_file_is_a_warning(base: Path, folder: Path) -> None:
    (base / ".env").write_text("SECRET=1\n")
    (base / "pyproject.toml").write_text("[project]\n")
    (base / "other").write_text("not asked for")
    taken = take(files(base), folder)
    assert names(taken) == [".env", "pyproject.toml"]
    assert taken.captured.warnings == (f"there is no docker-compose.yml in {base}",)
    assert taken.captured.summary == {"files": 2, "bytes": 19}
    assert "GNU tar" in taken.captured.tools["tar"]


def test_nothing_at_all_is_a_failure(base: Path, folder: Path) -> None:
    (base / "conf").mkdir()
    with pytest.raises(CaptureFailed, match="Nothing to save"):
        take(files(base, "conf", "*.ini"), folder)
    assert "correct the patterns" in failing(files(base, "conf").check())


def test_patterns_exclusions_and_parents(base: Path, folder: Path) -> None:
    for name in ("a/b/one.ini", "a/b/one.tmp", "a/two.ini", ".hidden/three.ini", "cache/x", "top.ini"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    assert names(take(files(base, "**/*.ini"), folder)) == [
        ".hidden", ".hidden/three.ini", "a", "a/b", "a/b/one.ini", "a/two.ini", "top.ini",
    ]  # fmt: skip
    assert names(take(files(base, ".", exclude=["*.tmp", "cache"]), folder)) == [
        ".hidden", ".hidden/three.ini", "a", "a/b", "a/b/one.ini", "a/two.ini", "top.ini",
    ]  # fmt: skip
    assert names(take(files(base, "a/b/one.ini", "a"), folder)) == [
        "a", "a/b", "a/b/one.ini", "a/b/one.tmp", "a/two.ini",
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_pattern_that_leads_out_is_refused(base: Path, pattern: str) -> None:
    with pytest.raises(Refused, match="does not stay below"):
        files(base, pattern)


def test_odd_names_come_back_as_they_were(base: Path, folder: Path) -> None:
    odd = ["-rf", "with\nnewline", "ünï", "a b", "back\\slash", "*", "l" * 120, f"{'d' * 90}/{'e' * 90}/{'f' * 200}"]
    for name in odd:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    Path(os.fsdecode(os.fsencode(base) + b"/no-utf8-\xff")).write_bytes(b"odd")
    taken = take(files(base, "."), folder)
    assert {*odd, "no-utf8-\\xff"} <= set(names(taken))
    assert taken.captured.warnings == ()
    assert_good(drill(files(base, "."), taken, folder))
    before = tree(base)
    restore(files(base, "."), taken, folder)
    assert tree(base) == before


def restore(source: FilesSource | LogsSource, taken: Taken, folder: Path, token: str = "token") -> None:
    restorer = source.restorer(Place(fresh(folder, "restore"), token))
    restorer.prepare(pieces(taken.data))
    assert_good(restorer.validate(taken.expectations))
    restorer.swap()
    restorer.discard()


def test_links_stay_links_and_those_that_lead_out_are_left_out(base: Path, folder: Path) -> None:
    (base / "conf").mkdir()
    (base / "conf" / "real").write_text("x")
    (base / "inside").symlink_to("conf/real")
    (base / "outside").symlink_to("/etc/passwd")
    (base / "up").symlink_to("../other")
    (base / "by-link").symlink_to("conf")
    taken = take(files(base, ".", "by-link/real"), folder)
    assert names(taken) == ["by-link", "conf", "conf/real", "inside"]
    assert taken.expectations["entries"]["inside"] == ["link", 0, 0, 0, "conf/real"]
    said = "\n".join(taken.captured.warnings)
    assert "outside is a link out of" in said
    assert "up is a link out of" in said
    assert "by-link is a link: what is below it was left out" in said


def test_what_is_no_file_is_left_out_with_a_warning(base: Path, folder: Path) -> None:
    (base / "a").write_text("x")
    os.mkfifo(base / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(base / "sock"))
        taken = take(files(base, "."), folder)
    assert names(taken) == ["a"]
    assert [warning.partition(" is ")[0] for warning in taken.captured.warnings] == ["pipe", "sock"]


def test_a_restore_at_work_is_never_part_of_a_backup(base: Path, folder: Path) -> None:
    (base / "a").write_text("x")
    (base / ".zantara-restore-token").mkdir()
    (base / ".zantara-restore-token" / "new").write_text("x")
    assert names(take(files(base, ".", "**/*"), folder)) == ["a"]


def test_a_file_that_vanishes_before_it_is_read_is_a_warning(base: Path, folder: Path) -> None:
    (base / "stays").write_text("x")
    (base / "goes").write_text("y")
    found = scan(base, ["."])
    (base / "goes").unlink()
    with capture_tree(base, found, fresh(folder, "scratch")) as capture:
        captured = finish(capture, capture.chunks())
    assert list(captured.expectations["entries"]) == ["stays"]
    assert [w for w in captured.warnings if "goes" in w] == list(captured.warnings) != []


def test_all_files_vanishing_is_a_failure(base: Path, folder: Path) -> None:
    (base / "goes").write_text("y")
    found = scan(base, ["."])
    (base / "goes").unlink()
    with capture_tree(base, found, fresh(folder, "scratch")) as capture, pytest.raises(CaptureFailed, match="goes"):
        finish(capture, capture.chunks())


def test_a_file_that_becomes_a_link_out_fails_the_capture(base: Path, folder: Path) -> None:
    """It would be refused on the way back, and the whole set with it."""
    (base / "a").write_text("x")
    (base / "b").write_text("x")
    found = scan(base, ["."])
    (base / "b").unlink()
    (base / "b").symlink_to("/etc/passwd")
    with capture_tree(base, found, fresh(folder, "scratch")) as capture, pytest.raises(CaptureFailed, match="b became"):
        finish(capture, capture.chunks())


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: os.truncate(path, 5_000_000), "File shrank by"),
        (lambda path: append(path, b"more" * 1000), "file changed as we read it"),
    ],
)
def test_a_file_that_moves_while_it_is_read_is_a_warning_and_the_rest_is_whole(
    base: Path, folder: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    large = base / "large"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    (base / "small").write_text("x")
    source = files(base, ".")
    data = bytearray()
    with source.capture(now=clock.now(), scratch=fresh(folder, "scratch")) as capture:
        chunks = capture.chunks()
        data += next(chunks)
        spoil(large)
        for chunk in chunks:
            data += chunk
        captured = capture.finish()
    assert len(captured.warnings) == 1
    assert "large" in captured.warnings[0]
    assert said in captured.warnings[0]
    taken = Taken(bytes(data), captured)
    assert taken.expectations["entries"]["large"][1] == 64 * 2**20
    assert_good(drill(source, taken, folder))


def test_a_file_that_may_not_be_read_is_named(base: Path, folder: Path) -> None:
    (base / "mine").write_text("x")
    (base / "not-mine").write_text("secret")
    (base / "not-mine").chmod(0)
    for path in (base, *base.parents):
        if path.stat().st_mode & 0o005 != 0o005 and str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o055)
    scratch = fresh(folder, "scratch")
    scratch.chmod(0o777)
    captured = _as_nobody(lambda: _captured_summary(base, scratch))
    assert captured["entries"] == ["mine"]
    assert len(captured["warnings"]) == 1
    assert "not-mine" in captured["warnings"][0]


def _captured_summary(base: Path, scratch: Path) -> Any:
    with files(base, ".").capture(now=clock.now(), scratch=scratch) as capture:
        captured = finish(capture, capture.chunks())
    return {"entries": list(captured.expectations["entries"]), "warnings": captured.warnings}


def _as_nobody(look: Callable[[], Any]) -> Any:
    """Run in a child that is not root: for root there is no file that may not be read."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(write, json.dumps(look()).encode())
        except BaseException as error:  # noqa: BLE001  (the parent shows it)
            os.write(write, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer


def test_large_trees_keep_their_bytes_and_thousands_of_small_files_their_names(base: Path, folder: Path) -> None:
    (base / "large").write_bytes(os.urandom(SMALL_TREE_BYTES + 12345))
    for number in range(3000):
        (base / f"{number % 10}").mkdir(exist_ok=True)
        (base / f"{number % 10}" / f"{number}").write_bytes(b"x" * (number % 1100))
    taken = take(files(base, "."), folder)
    assert taken.captured.summary["files"] == 3001
    assert_good(drill(files(base, "."), taken, folder))


def test_stock_tar_restores_the_same_tree(base: Path, folder: Path) -> None:
    (base / "conf").mkdir(mode=0o750)
    (base / "conf" / "a").write_text("x")
    (base / "conf" / "a").chmod(0o664)
    (base / "conf" / "b").symlink_to("a")
    os.utime(base / "conf" / "a", (1_600_000_000, 1_600_000_000))
    taken = take(files(base, "."), folder)
    target = fresh(folder, "stock")
    subprocess.run(FilesSource.stock_command().split(), input=taken.data, cwd=target, check=True)
    assert tree(target) == tree(base)


# --- logs ---------------------------------------------------------------------------------------------------


def logs(base: Path, **settings: Any) -> LogsSource:
    return LogsSource("logs", LogsSource.clean({"base": str(base), **settings}, {}), {})


def test_logs_take_rotated_files_up_to_an_age(base: Path, folder: Path) -> None:
    now = clock.now()
    for name, days in (("web.log", 0), ("web.log.1", 5), ("web.log.2.gz", 29), ("web.log.3.gz", 31), ("notes.txt", 0)):
        (base / name).write_text(name)
        at = (now - timedelta(days=days)).timestamp()
        os.utime(base / name, (at, at))
    assert names(take(logs(base), folder)) == ["web.log", "web.log.1", "web.log.2.gz"]
    assert names(take(logs(base, max_age_days=3), folder)) == ["web.log"]
    assert names(take(logs(base, max_age_days="0"), folder))[-1] == "web.log.3.gz"


@pytest.mark.parametrize("days", ["many", -1, None, 40000])
def test_an_age_that_is_none_is_refused(base: Path, days: Any) -> None:
    with pytest.raises(Refused, match="max_age_days"):
        logs(base, max_age_days=days)


def test_a_log_that_grows_while_it_is_read_is_no_warning(base: Path, folder: Path) -> None:
    large = base / "web.log"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    with logs(base).capture(now=clock.now(), scratch=fresh(folder, "scratch")) as capture:
        chunks = capture.chunks()
        next(chunks)
        with large.open("ab") as file:
            file.write(b"one more line\n")
        captured = finish(capture, chunks)
    assert captured.warnings == ()
    assert captured.expectations["entries"]["web.log"][1] == 64 * 2**20


def test_logs_come_back_beside_the_living_ones_or_over_them_when_told(base: Path, folder: Path) -> None:
    (base / "web.log").write_text("yesterday\n")
    taken = take(logs(base), folder)
    (base / "web.log").write_text("today\n")
    restore(logs(base), taken, folder, "tok1")
    assert (base / "web.log").read_text() == "today\n"
    assert (base.with_name("base-restored") / "tok1" / "web.log").read_text() == "yesterday\n"
    restore(logs(base, restore_to="there"), taken, folder, "tok2")
    assert (base / "there" / "web.log").read_text() == "yesterday\n"
    restore(logs(base, restore_to="."), taken, folder, "tok3")
    assert (base / "web.log").read_text() == "yesterday\n"


def test_a_log_that_is_rotated_and_written_all_the_time_is_captured_again_and_again(base: Path, folder: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with (base / "web.log").open("a") as log:
                log.write("line\n" * 100)
            number += 1
            stop.wait(0.002)
            if number % 20 == 0:
                (base / "web.log").replace(base / f"web.log.{number % 3}")

    (base / "web.log").write_text("first\n")
    (base / "work.log").write_text("quiet\n")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            assert_good(drill(logs(base), take(logs(base), folder), folder))
    finally:
        stop.set()
        writer.join()


# --- faults -------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_tar_that_is_killed_or_hangs_in_the_middle_is_no_backup(
    base: Path, folder: Path, how: signal.Signals
) -> None:
    with (base / "large").open("wb") as file:
        file.truncate(200 * 2**20)
    scratch = fresh(folder, "scratch")
    with files(base, ".").capture(now=clock.now(), scratch=scratch) as capture:
        chunks = capture.chunks()
        next(chunks)
        (tar,) = [child for child in psutil.Process().children() if child.name() == "tar"]
        tar.send_signal(how)
        if how == signal.SIGSTOP:
            threading.Timer(0.3, capture.interrupt).start()
        with pytest.raises(CaptureFailed):
            finish(capture, chunks)
    assert not tar.is_running()
    assert list(scratch.iterdir()) == []
