"""A producer that fails, lies, hangs or loses its server: nothing is captured, and nothing is left running."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from backups.errors import CaptureFailed
from backups.sources import pg_capture
from backups.sources.pg_capture import PostgresCapture
from backups.sources.pg_connect import Address, Programs, installed
from backups.sources.scratch.postgres import scratch_postgres
from controlplane.kernel import clock
from tests.backups.servers.postgres import fill, run, source_of
from tests.stack import wait_for
from tests.stopwatch import Stopwatch

from .taking import drained

pytestmark = pytest.mark.faults
Lying = Callable[[str], None]


@pytest.fixture
def live(postgres_database: Callable[[], Address]) -> Address:
    address = postgres_database()
    fill(address)
    return address


@pytest.fixture
def lying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lying:
    """Put a script in the place of pg_dump; ``$REAL`` in it is the real one."""
    real = installed("pg_dump")[-1]

    def put(script: str) -> None:
        program = tmp_path / "pg_dump"
        program.write_text(f"#!/bin/sh\nREAL={real.path('pg_dump')}\n{script}\n")
        program.chmod(0o755)
        fake = Programs(tmp_path, real.version, real.major)
        monkeypatch.setattr(pg_capture, "programs_for", lambda *_: fake)

    return put


def group_of(capture: PostgresCapture) -> list[psutil.Process]:
    assert capture._program is not None
    leader = psutil.Process(capture._program.process.pid)
    return [leader, *leader.children(recursive=True)]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('"$REAL" "$@" | head -c 20000; echo "could not write: $PGPASSWORD" >&2; exit 1', "exited with 1: could not"),
        ('"$REAL" "$@"; exit 3', "pg_dump exited with 3"),
        ("exit 0", "pg_dump wrote no archive"),
        ("echo hello", "pg_dump wrote no archive"),
        ('"$REAL" "$@" | head -c 3', "pg_dump wrote no archive"),
        ("kill -9 $$", "pg_dump exited with -9"),
    ],
)
def test_a_dump_that_fails_or_says_nothing_is_no_capture(
    live: Address, lying: Lying, script: str, why: str, at_once: bool
) -> None:
    lying(script)
    with PostgresCapture(live, at_once=at_once) as capture, pytest.raises(CaptureFailed, match=why):
        drained(capture)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zantara-backup'"
    wait_for(lambda: run(live, count) == [(1,)], 30, "the end of every backend")


def test_a_dump_that_hangs_is_ended_with_its_whole_group(live: Address, lying: Lying) -> None:
    lying('"$REAL" "$@" | head -c 10; sleep 1000')
    with PostgresCapture(live) as capture:
        chunks = capture.chunks()
        assert next(chunks).startswith(b"PGDMP")
        deadline = time.monotonic() + 10
        while len(members := group_of(capture)) < 2:  # the shell and what it sleeps with
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        threading.Timer(0.2, capture.interrupt).start()
        with pytest.raises(CaptureFailed, match="was stopped before its end"):
            next(chunks)
        assert time.monotonic() - began < 5
    _, alive = psutil.wait_procs(members, timeout=5)
    assert alive == []


def test_counting_that_takes_too_long_is_cancelled(live: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg_capture, "_CANCEL_SECONDS", 30.0)
    run(live, "CREATE TABLE long AS SELECT n, n * 1.5 AS a, now() AS b FROM generate_series(1, 1500000) n")
    counted = """SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%ONLY "public"."long"%'
        AND datname = current_database() AND pid <> pg_backend_pid()"""
    with live.connect() as beside, PostgresCapture(live, at_once=False) as capture:

        def interrupt() -> None:
            deadline = time.monotonic() + 60
            while capture._at_table != "public.long" or beside.execute(counted).fetchone() == (0,):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.005)
            capture.interrupt()

        for _ in capture.chunks():
            pass
        threading.Thread(target=interrupt).start()
        with pytest.raises(CaptureFailed, match=r"counting failed at public.long: canceling statement"):
            capture.finish()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Address]:
    with scratch_postgres(tmp_path, server_major=installed("initdb")[-1].major) as address:
        yield address


def postmaster(address: Address) -> int:
    return int((Path(address.parameters["host"]) / "data" / "postmaster.pid").read_text().splitlines()[0])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_server_that_dies_in_the_middle_is_no_capture(own_server: Address, at_once: bool) -> None:
    run(own_server, "CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 50) AS text FROM generate_series(1, 60000) n")
    with PostgresCapture(own_server, at_once=at_once) as capture:
        chunks = capture.chunks()
        next(chunks)
        server = psutil.Process(postmaster(own_server))
        for process in [server, *server.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        b"".join(chunks)
        with pytest.raises(CaptureFailed, match="could not be saved"):
            capture.finish()


def test_an_interruption_between_dump_and_count_is_no_capture(live: Address) -> None:
    with PostgresCapture(live, at_once=False) as capture:
        b"".join(capture.chunks())
        capture.interrupt()
        with pytest.raises(CaptureFailed):
            capture.finish()


@pytest.mark.parametrize("during", ["stream", "count", "finish"])
def test_a_frozen_server_does_not_hold_up_an_interruption(own_server: Address, during: str) -> None:
    run(own_server, "CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 50) AS text FROM generate_series(1, 60000) n")
    server = psutil.Process(postmaster(own_server))
    threads = threading.active_count()
    frozen: list[psutil.Process] = []

    def freeze() -> None:
        for process in [server, *server.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend that ended meanwhile
                process.suspend()
                frozen.append(process)

    try:
        with Stopwatch() as watch, PostgresCapture(own_server, at_once=during == "count") as capture:
            chunks = capture.chunks()
            next(chunks)
            if during == "finish":
                b"".join(chunks)
            freeze()
            interruption = threading.Timer(0.3, capture.interrupt)
            interruption.start()
            began = watch.seconds
            with pytest.raises(CaptureFailed, match="was stopped before its end"):
                capture.finish() if during == "finish" else b"".join(chunks)
        assert frozen
        assert watch.seconds - began < 15
    finally:
        for process in frozen:
            process.resume()
    interruption.join()
    assert threading.active_count() <= threads


def test_a_counting_session_that_is_ended_by_somebody_is_no_capture(live: Address) -> None:
    with PostgresCapture(live, at_once=False) as capture:
        for _ in capture.chunks():
            pass
        assert capture._connection is not None
        pid = capture._connection.info.backend_pid
        assert run(live, f"SELECT pg_terminate_backend({pid}, 2000)") == [(True,)]
        with pytest.raises(CaptureFailed, match="counting failed"):
            capture.finish()


def test_a_table_locked_by_a_migration_fails_the_capture_in_time(
    live: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pg_capture, "LOCK_SECONDS", 1)
    with live.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE people IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(CaptureFailed, match="lock timeout"):
            source_of(live).capture(now=clock.now(), scratch=tmp_path).__enter__()
        assert time.monotonic() - began < 10
