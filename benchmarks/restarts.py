"""A service whose workers were restarted ten thousand times: how long a scrape takes, and what lies on the disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import bar, table

RESTARTS, EVERY = 10_000, 500
MOST_SCRAPE_MS, MOST_MB = 50.0, 1.0
DEAD = 2**22 + 1  # above the largest process number there is


def main() -> None:
    """Dead workers' files are made as prometheus_client makes them; every so many, the service is scraped."""
    from controlplane.monitoring import compaction

    rows, scrapes, first_scrapes = [], [], []
    with tempfile.TemporaryDirectory(prefix="zantara-bench-") as name:
        folder = Path(name)
        for restart in range(1, RESTARTS + 1):
            leave_behind(folder, f"{DEAD + restart}-1")
            # what a worker does when it starts: see controlplane.monitoring.registry
            compaction.tidy(folder, most_files=64)
            if restart % EVERY == 0:
                first_scrapes.append(scrape(folder))
                scrapes += [scrape(folder) for _ in range(3)]
                if restart in (EVERY, RESTARTS // 2, RESTARTS):
                    files, size = weigh(folder)
                    rows.append((f"{restart:,}", first_scrapes[-1], statistics.median(scrapes[-3:]), files, size / 1e6))
        table(
            "After so many worker restarts",
            ("restarts", "first scrape ms", "next ms", "files", "MB on disk"),
            [(r, f"{a:.1f}", f"{b:.1f}", str(n), f"{mb:.2f}") for r, a, b, n, mb in rows],
        )
        total = sum(sum(parts) for parts in compaction.collect(folder).sums["counter"].values())
        if total != RESTARTS * 20:
            raise RuntimeError(f"counts were lost: {total}")
        bar("the slowest first scrape", max(first_scrapes), MOST_SCRAPE_MS, "ms")
        bar("on disk", weigh(folder)[1] / 1e6, MOST_MB, "MB")


def leave_behind(folder: Path, owner: str) -> None:
    """The files of one worker: 20 routes counted, and as many histograms of nine bounds."""
    from prometheus_client.mmap_dict import MmapedDict, mmap_key

    if not _template:
        for kind in ("counter", "histogram"):
            store = MmapedDict(str(folder / f"template_{kind}"))
            for route in range(20):
                if kind == "counter":
                    store.write_value(mmap_key("toy", "toy_total", ["route"], [f"/{route}"], "Toy."), 1.0, 0.0)
                else:
                    for bound in range(10):
                        labels = [f"/{route}", str(bound)]
                        key = mmap_key("toy_seconds", "toy_seconds_bucket", ["route", "le"], labels, "Toy.")
                        store.write_value(key, 1.0, 0.0)
            store.close()
            path = folder / f"template_{kind}"
            _template[kind] = path.read_bytes()
            path.unlink()
    for kind, content in _template.items():
        (folder / f"{kind}_{owner}.db").write_bytes(content)


_template: dict[str, bytes] = {}


def scrape(folder: Path) -> float:
    """Milliseconds of a whole answer: collecting, adding up and writing the text."""
    from prometheus_client.exposition import generate_latest

    from controlplane.monitoring import exposition
    from controlplane.monitoring.compaction import collect

    began = time.perf_counter()
    families = list(exposition._counted_together(collect(folder)))
    generate_latest(exposition._Snapshot(families))  # type: ignore[arg-type]
    return (time.perf_counter() - began) * 1000


def weigh(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_blocks * 512 for path in folder.iterdir()]
    return len(sizes), sum(sizes)
