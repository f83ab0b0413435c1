"""A Chroma collection of 384 dimensions into an encrypted, compressed store, alone and while another client writes.

``python -m benchmarks.backup_chroma disturb <url> <collection id> <records> <file>`` is that other client: it deletes
and adds 20 records twenty times a second and notes what it deleted.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from array import array
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.common import django_here, table

DIMENSION = 384
LEAST_PER_SECOND = 5000
AT_ONCE = 20


def main() -> None:
    records = int(os.environ.get("ZANTARA_BENCH_RECORDS", "50000"))
    rows = []
    with tempfile.TemporaryDirectory(prefix="zantara-bench-") as folder:
        django_here(Path(folder) / "data")
        from backups.sources.chroma import ChromaSource
        from backups.sources.chroma_client import Chroma
        from backups.sources.scratch.chroma import scratch_chroma

        (root := Path(folder) / "server").mkdir()
        (Path(folder) / "store").mkdir()
        with scratch_chroma(root) as server, Chroma(server) as chroma:
            collection = str(chroma.create({}, "bench")["id"])
            dice = random.Random(20261123)
            for first in range(0, records, 1000):
                chroma.upsert(collection, batch(range(first, first + 1000), dice))
            source = ChromaSource("bench", {"url": server.url}, {})
            everything = {f"record-{number}" for number in range(records)}
            for name, disturbed in (("alone", False), ("while another client writes", True)):
                notes = Path(folder) / "deleted"
                other = disturber(server.url, collection, records, notes) if disturbed else None
                seconds, ids = export(source, Path(folder), name.replace(" ", "-"))
                if other is not None:
                    other.terminate()
                    other.wait()
                deleted = set(notes.read_text().split()) if disturbed else set()
                rows.append((name, len(ids) / seconds, len(ids), len(deleted), len(everything - deleted - ids)))
    print(f"\nbackups of Chroma {version('chromadb')}: {records:,} records, {DIMENSION} dimensions, zstd 3 and age")
    heads = ["one run each", "records/s", "exported", "deleted meanwhile", "survivors lost"]
    table("export", heads, [[row[0], row[1], *(f"{number:,}" for number in row[2:])] for row in rows])
    for name, rate, _, _, lost in rows:
        word = "met   " if rate >= LEAST_PER_SECOND and not lost else "missed"
        print(f"  {word}  {name}: {rate:,.0f} records/s (at least {LEAST_PER_SECOND:,}), {lost} lost (none)")


def batch(numbers: range, dice: random.Random) -> bytes:
    """The body of an upsert; Chroma takes vectors as base64 of 32-bit floats."""
    vectors = (array("f", [dice.random() for _ in range(DIMENSION)]) for _ in numbers)
    return json.dumps(
        {
            "ids": [f"record-{number}" for number in numbers],
            "embeddings": [b64encode(vector.tobytes()).decode() for vector in vectors],
            "documents": [f"document {number} of the bench, with some words in it" for number in numbers],
            "metadatas": [{"number": number, "even": number % 2 == 0} for number in numbers],
        }
    ).encode()


def export(source: Any, folder: Path, name: str) -> tuple[float, set[str]]:
    """Seconds, and the ids that were exported."""
    from backups import keys
    from backups.storage.local import LocalStorage
    from backups.stream import store_stream

    ids: set[str] = set()
    began = time.perf_counter()
    with source.capture(now=datetime.now(UTC), scratch=folder) as capture:
        store_stream(
            noting(capture.chunks(), ids),
            storage=LocalStorage(folder / "store"),
            folder=f"sets/bench/{name}",
            recipients=keys.recipients(),
            level=3,
            finish=capture.finish,
        )
    return time.perf_counter() - began, ids


def noting(chunks: Iterator[bytes], ids: set[str]) -> Iterator[bytes]:
    """The chunks as they are; the ids in them are read off on the way."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            at = line.find(b'"id":"record-')
            if at >= 0:
                ids.add(line[at + 6 : line.index(b'"', at + 6)].decode())
        yield chunk


def disturber(url: str, collection: str, records: int, notes: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "benchmarks.backup_chroma", "disturb", url, collection, str(records), str(notes)]
    process = subprocess.Popen(argv)
    while not notes.exists() or not notes.read_text():
        time.sleep(0.05)
    return process


def disturb(url: str, collection: str, records: int, notes: Path) -> None:
    path = f"{url}/api/v2/tenants/default_tenant/databases/default_database/collections/{collection}"
    dice, turn = random.Random(7), 0
    with httpx2.Client(trust_env=False) as client, notes.open("w") as file:
        while True:
            ids = [f"record-{dice.randrange(records)}" for _ in range(AT_ONCE)]
            file.write("\n".join(ids) + "\n")  # noted first: nobody may call it lost that was deleted a moment later
            file.flush()
            client.post(f"{path}/delete", json={"ids": ids}).raise_for_status()
            first = records + turn * AT_ONCE
            added = batch(range(first, first + AT_ONCE), dice)
            client.post(
                f"{path}/upsert", content=added, headers={"Content-Type": "application/json"}
            ).raise_for_status()
            turn += 1
            time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["disturb"]:
        disturb(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
