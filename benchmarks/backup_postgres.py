"""A PostgreSQL database (pgbench) into an encrypted, compressed store, beside ``pg_dump -Fc -Z0 | zstd -3`` to a file.

What a drill compares with (rows counted and hashed in the dump's snapshot) is an extra of ours: the stream is measured
without it, and with it beside.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks.common import bar, django_here, table

NOTHING = {"tables": [], "large_objects": {"count": 0, "bytes": 0}}


def main() -> None:
    rounds = int(os.environ.get("ZANTARA_BENCH_ROUNDS", "3"))
    scale = int(os.environ.get("ZANTARA_BENCH_PGBENCH_SCALE", "50"))
    with tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
        django_here(Path(folder) / "data")
        from backups.sources import pg_expect
        from backups.sources.pg_capture import PostgresCapture
        from backups.sources.pg_connect import installed
        from backups.sources.scratch.postgres import scratch_postgres

        programs = installed("initdb")[-1]
        (root := Path(folder) / "postgres").mkdir()
        with scratch_postgres(root, server_major=programs.major) as address:
            pgbench = str(Path(programs.path("pg_dump")).with_name("pgbench"))
            environ = {**os.environ, **address.environ()}
            subprocess.run(
                [pgbench, "-i", "-q", "-s", str(scale), address.argument()],
                env=environ,
                check=True,
                capture_output=True,
            )
            store = Path(folder) / "store"

            def peer() -> float:
                return piped(programs.path("pg_dump"), address.argument(), environ, Path(folder) / "peer.zst")

            def stream() -> float:
                with mock.patch.object(pg_expect, "contents", return_value=NOTHING):
                    return stored(PostgresCapture(address), store)

            def whole() -> float:
                return stored(PostgresCapture(address), store)

            figures = turns({"pg_dump | zstd": peer, "stream": stream, "with expectations": whole}, rounds)
            version = subprocess.run(
                [programs.path("pg_dump"), "--version"], capture_output=True, text=True, check=True
            )
    print(f"\nbackups of PostgreSQL: pgbench scale {scale}, {rounds} rounds in turns; {version.stdout.strip()}")
    table(
        "medians",
        ["", "seconds", "× pg_dump | zstd"],
        [[n, s, s / figures["pg_dump | zstd"]] for n, s in figures.items()],
    )
    bar("stream over pg_dump -Fc -Z0 | zstd -3", figures["stream"] / figures["pg_dump | zstd"], 1.25)
    extra = figures["with expectations"] - figures["stream"]
    print(f"  expectations (counts and hashes of every row): {extra:+.2f} s beside the stream")


def turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for call in contestants.values():
        call()  # into the page cache
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(contestants[name]())
    return {name: statistics.median(found) for name, found in seconds.items()}


def piped(pg_dump: str, database: str, environ: dict[str, str], target: Path) -> float:
    began = time.perf_counter()
    with (
        target.open("wb") as file,
        subprocess.Popen([pg_dump, "-Fc", "-Z0", "--dbname", database], env=environ, stdout=subprocess.PIPE) as dump,
        subprocess.Popen(["zstd", "-3", "-q", "-c"], stdin=dump.stdout, stdout=file) as zstd,
    ):
        if zstd.wait() or dump.wait():
            raise RuntimeError("pg_dump or zstd failed")
        os.fsync(file.fileno())
    return time.perf_counter() - began


def stored(capture: object, store: Path) -> float:
    from backups import keys
    from backups.sources.base import Capture
    from backups.storage.local import LocalStorage
    from backups.stream import put_expectations, store_stream

    assert isinstance(capture, Capture)
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    storage = LocalStorage(store)
    began = time.perf_counter()
    with capture:
        _, captured = store_stream(
            capture.chunks(),
            storage=storage,
            folder="sets/bench/database",
            recipients=keys.recipients(),
            level=3,
            finish=capture.finish,
        )
        put_expectations(storage, "sets/bench/database", captured.expectations, keys.recipients())
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
