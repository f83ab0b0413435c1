"""``manage.py up`` refuses in one sentence, with exit code 1, and has then started nothing."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack import Stack

Up = Callable[..., Stack]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    stacks: list[Stack] = []

    def start(data_dir: Path | None = None, **options: object) -> Stack:
        stacks.append(Stack(data_dir or tmp_path / "var", **options))  # type: ignore[arg-type]
        return stacks[-1].start()

    yield start
    for stack in stacks:
        stack.stop()


def refused(stack: Stack) -> str:
    """The one line that it ends with."""
    assert stack.wait(30) == 1
    assert stack.children() == {}
    assert stack.processes() == []
    (line,) = stack.lines()
    return line


@pytest.mark.parametrize("variable", ["ZANTARA_WEB_PORT", "ZANTARA_EDGE_PORT"])
def test_a_port_in_use(up: Up, variable: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        line = refused(up(environ={variable: str(port)}))
    assert line.startswith(f"Port {port} is in use by ")
    assert line.endswith(f"(pid {os.getpid()}). Free it, or set {variable} to another port.")


def test_a_data_directory_that_cannot_be_written(up: Up, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(up(tmp_path / "file" / "var"))
    assert line == (
        f"The data directory {tmp_path}/file/var cannot be written (Not a directory). "
        "Make it writable for this user, or set ZANTARA_DATA_DIR to a directory that is."
    )


def test_a_port_that_is_no_number(up: Up) -> None:
    assert refused(up(environ={"ZANTARA_WEB_PORT": "http"})) == (
        "ZANTARA_WEB_PORT is 'http', which is not a whole number. Correct ZANTARA_WEB_PORT or unset it."
    )


def test_a_redis_that_cannot_start(up: Up, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "redis-server"
    fake.write_text("#!/bin/sh\necho 'Fatal error, cannot read the append only file'\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    stack = up(environ={"PATH": f"{programs}:{os.environ['PATH']}"})
    assert stack.wait(30) == 1
    assert stack.lines()[-1] == (
        "Redis did not come up within 10 s; its last line was: Fatal error, cannot read the append only file. "
        f"See {tmp_path}/var/logs/redis.log."
    )
    assert not any(line.startswith(("bootstrap ", "web ")) for line in stack.lines())
    assert stack.processes() == []


def test_a_redis_elsewhere_that_does_not_answer(up: Up, tmp_path: Path) -> None:
    stack = up(environ={"ZANTARA_REDIS_URL": f"unix://{tmp_path}/none.sock"})
    assert stack.wait(40) == 1
    assert stack.lines()[-1] == (
        "The Redis that ZANTARA_REDIS_URL names does not answer within 10 s. "
        "Start it, or unset ZANTARA_REDIS_URL to let the stack run its own."
    )
    assert stack.children() == {}
