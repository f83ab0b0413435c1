"""A mixed tree to local disk and back, beside restic, in turns: throughput and the memory of all processes.

restic deduplicates, we do not: a second backup of the same tree would be its game. Each round begins with an empty
store and an empty target, with the tree in the page cache for both. Start-up counts for neither: ours runs in a
worker that is up, and what restic takes to open its repository is measured and subtracted. Our restore extracts
beside, compares every file with the expectations (that time is not counted: restic does not do it) and swaps.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.common import bar, table

MIB = 2**20
WORDS = [
    "request", "served", "in", "ms", "for", "role", "External", "CEO", "GET", "POST", "/zantara.unified", "200", "429",
    "limit", "bucket", "moved", "to", "collection", "vector", "timeout", "retrying", "after", "seconds",
]  # fmt: skip


def make_tree(root: Path, total_bytes: int) -> int:
    """Two fifths logs, two fifths random binaries, one fifth small files (thousands); the files made."""
    dice = random.Random(20261123)
    lines = [
        f"2026-11-23T02:{dice.randrange(60):02}:{dice.randrange(60):02}.{dice.randrange(1000):03}Z "
        + " ".join(dice.choices(WORDS, k=12)) + f" id={dice.getrandbits(64):016x}\n"
        for _ in range(20_000)
    ]  # fmt: skip
    files = 0
    for number in range(8):
        path = root / "logs" / f"service-{number}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            written = 0
            while written < total_bytes * 2 // 5 // 8:
                written += file.write("".join(dice.choices(lines, k=5000)))
        files += 1
    for number in range(8):
        path = root / "binaries" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(total_bytes * 2 // 5 // 8))
        files += 1
    small = total_bytes // 5 // 4000
    for number in range(4000):
        path = root / "small" / f"{number % 64:02}" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = small // 2
        path.write_bytes(dice.randbytes(half) + "".join(dice.choices(lines, k=half // 150)).encode())
        files += 1
    return files


def run(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[float, float, str]:
    """Seconds, the peak of the memory (RSS, MiB) of the process and all its children, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        own = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, sum(each.memory_info().rss for each in [own, *own.children(recursive=True)]))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
    return seconds, peak / MIB, out


class Contestants:
    """One round of each, with stores and targets of their own below ``root``."""

    def __init__(self, root: Path, tree: Path) -> None:
        self.root, self.tree = root, tree
        self.environ = {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(root / "restic"),
            "RESTIC_CACHE_DIR": str(root / "cache"),
            "ZANTARA_DATA_DIR": str(root / "data"),
            "ZANTARA_LOG_LEVEL": "WARNING",
        }

    def ours(self) -> tuple[float, float, float, float]:
        store, target = self.root / "store", self.root / "target" / "tree"
        for path in (store, target.parent):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        job = [sys.executable, "-m", "benchmarks.backup_job"]
        _, saved_mib, out = run([*job, "backup", str(self.tree), str(store)], self.environ)
        saved = json.loads(out)["seconds"]
        _, restored_mib, out = run([*job, "restore", str(target), str(store)], self.environ)
        same(self.tree, target)
        return saved, json.loads(out)["seconds"], saved_mib, restored_mib

    def restic(self) -> tuple[float, float, float, float]:
        for name in ("restic", "cache", "target"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        run(["restic", "init", "--quiet"], self.environ)
        saved, saved_mib, _ = run(["restic", "backup", "--quiet", str(self.tree)], self.environ)
        target = self.root / "target"
        restored, restored_mib, _ = run(
            ["restic", "restore", "--quiet", "latest", "--target", str(target)], self.environ
        )
        same(self.tree, target / self.tree.relative_to("/"))
        return saved, restored, saved_mib, restored_mib


def same(one: Path, other: Path) -> None:
    """Neither contestant may win by leaving something out."""
    found = subprocess.run(["diff", "--recursive", "--brief", one, other], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stdout[:500])


def main() -> None:
    if shutil.which("restic") is None:
        raise RuntimeError("restic is not installed (Debian: apt install restic)")
    rounds = int(os.environ.get("ZANTARA_BENCH_ROUNDS", "3"))
    size = int(os.environ.get("ZANTARA_BENCH_MIB", "512")) * MIB
    restic = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True).stdout.split(
        " compiled"
    )[0]
    with tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
        root = Path(folder)
        files = make_tree(tree := root / "tree", size)
        print(f"\nbackups: {size / MIB:,.0f} MiB in {files:,} files, {rounds} rounds in turns; {restic}; zstd level 3")
        contestants = Contestants(root, tree)
        ours, peer = [], []
        for turn in range(rounds):
            for mine in (True, False) if turn % 2 == 0 else (False, True):
                (ours if mine else peer).append(contestants.ours() if mine else contestants.restic())
        own, other = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in (ours, peer))
        mib = size / MIB
        table(
            "medians",
            ["", "backup MiB/s", "restore MiB/s", "peak MiB backup", "peak MiB restore"],
            [
                ["this project", mib / own[0], mib / own[1], own[2], own[3]],
                ["restic", mib / other[0], mib / other[1], other[2], other[3]],
            ],
        )
        bar("restic's backup throughput over ours", own[0] / other[0], 1 / 1.5)
        bar("restic's restore throughput over ours", own[1] / other[1], 1 / 1.2)
        bar("memory of all processes, backup", own[2], 200, "MiB")
        bar("memory of all processes, restore", own[3], 200, "MiB")
        large = int(os.environ.get("ZANTARA_BENCH_LARGE_MIB", "4096")) * MIB
        shutil.rmtree(tree)
        make_tree(tree, large)
        grown = contestants.ours()
        saved, restored = (large / MIB / seconds for seconds in grown[:2])
        print(f"\n  {large / MIB:,.0f} MiB: {saved:,.1f} MiB/s saved, {restored:,.1f} restored")
        bar(f"memory of all processes, backup of {large / MIB:,.0f} MiB", grown[2], 200, "MiB")
        bar(f"memory of all processes, restore of {large / MIB:,.0f} MiB", grown[3], 200, "MiB")


if __name__ == "__main__":
    main()
