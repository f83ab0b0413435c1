"""The terminal never blocks the stack, and the logs rotate."""

from __future__ import annotations

import os
import time
from pathlib import Path

from controlplane.embedded.output import LineSplitter, RotatedLog, Terminal


def test_a_reader_who_does_not_read_does_not_block_the_stack() -> None:
    reader, writer = os.pipe()
    terminal = Terminal(writer, colour=False)
    started = time.monotonic()
    for number in range(20_000):
        terminal.line(f"line {number} " + "x" * 100)
    assert time.monotonic() - started < 10
    assert terminal.waiting
    os.set_blocking(reader, False)
    received = b""
    while terminal.waiting:
        received += os.read(reader, 1 << 20)
        terminal.pump()
    received += os.read(reader, 1 << 20)
    lines = received.decode().splitlines()
    assert lines[0].startswith("line 0 ")
    assert lines[-1].startswith("line 19999 ")
    left_out = [line for line in lines if "lines left out here" in line]
    assert len(left_out) == 1
    assert int(left_out[0].strip("(").split()[0]) == 20_000 - (len(lines) - 1)
    os.close(reader)
    os.close(writer)


def test_a_reader_who_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    terminal = Terminal(writer, colour=False)
    terminal.line("nobody reads this")
    terminal.line("nor this")
    assert not terminal.waiting
    os.close(writer)


def test_a_childs_line_stands_behind_its_name_and_has_colour_only_on_a_terminal(tmp_path: Path) -> None:
    for colour, expected in ((False, b"web    | hello\n"), (True, b"\x1b[32mweb    |\x1b[0m hello\n")):
        path = tmp_path / str(colour)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        terminal = Terminal(descriptor, colour=colour)
        terminal.child_line("web", "hello", width=6)
        os.close(descriptor)
        if colour:
            assert path.read_bytes().endswith(b"m hello\n")
            assert path.read_bytes().startswith(b"\x1b[")
        else:
            assert path.read_bytes() == expected


def test_lines_are_whole_however_the_bytes_arrive() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed("o é\n".encode()) == ["two é"]
    assert splitter.feed(b"rest") == []
    assert splitter.end() == ["rest"]
    assert splitter.end() == []


def test_a_child_cannot_paint_the_operators_terminal() -> None:
    assert LineSplitter().feed(b"\x1b[2J\x1b[31mred\x1b[0m \x07bell\r\n") == ["red bell"]


def test_a_line_without_an_end_does_not_eat_the_memory() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * 100_000)
    assert [len(line) for line in lines] == [16384] * 6
    assert splitter.end() == ["x" * (100_000 - 6 * 16384)]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert LineSplitter().feed(b"\xff\xfe ok\n") == ["\ufffd\ufffd ok"]


def test_a_log_rotates_by_size_and_keeps_three_older_files(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "web.log", limit_bytes=100, keep=3)
    for number in range(60):
        log.append(f"line {number:03}")  # nine bytes with its newline
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "web.log").read_text().splitlines()[-1] == "line 059"
    assert (tmp_path / "web.log.1").read_text().splitlines()[-1] == "line 054"


def test_a_log_goes_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    RotatedLog(tmp_path / "web.log", limit_bytes=20).append("0123456789")
    RotatedLog(tmp_path / "web.log", limit_bytes=20).append("abcdefghij")
    assert (tmp_path / "web.log").read_text() == "abcdefghij\n"
    assert (tmp_path / "web.log.1").read_text() == "0123456789\n"
