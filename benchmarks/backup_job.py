"""One job of a backup benchmark in a process of its own, so that its memory can be measured:

``python -m benchmarks.backup_job backup|restore <tree> <store>``. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

FOLDER = "sets/bench/tree"


def main(what: str, tree: Path, store: Path) -> dict[str, float]:
    import django

    from controlplane.kernel.local_secrets import ensure_local_secrets

    ensure_local_secrets()
    django.setup()
    from backups import keys
    from backups.sources.base import Place
    from backups.sources.files import FilesSource
    from backups.storage.local import LocalStorage
    from backups.stream import Part, get_expectations, open_stream, put_expectations, store_stream

    keys.ensure_keys()
    storage = LocalStorage(store)
    source = FilesSource("tree", {"base": str(tree), "patterns": ["**"], "exclude": []}, {})
    identity = keys.identity_from_file(keys.recovery_key_file())
    began = time.perf_counter()
    if what == "backup":
        with (
            tempfile.TemporaryDirectory() as scratch,
            source.capture(now=datetime.now(UTC), scratch=Path(scratch)) as capture,
        ):
            stored, captured = store_stream(
                capture.chunks(),
                storage=storage,
                folder=FOLDER,
                recipients=keys.recipients(),
                level=3,
                finish=capture.finish,
            )
        reference = put_expectations(storage, FOLDER, captured.expectations, keys.recipients())
        seconds = time.perf_counter() - began
        known = {
            "parts": [(part.name, part.size, part.sha256) for part in stored.parts],
            "plain_bytes": stored.plain_bytes,
            "plain_sha256": stored.plain_sha256,
            "stored_sha256": stored.stored_sha256,
            "expectations": reference,
        }
        (store / "known.json").write_text(json.dumps(known))
        return {"seconds": seconds, "plain_bytes": stored.plain_bytes, "stored_bytes": stored.stored_bytes}
    known = json.loads((store / "known.json").read_text())

    class Entry:
        name, compressed = "tree", True
        plain_bytes, plain_sha256 = known["plain_bytes"], known["plain_sha256"]
        stored_sha256 = known["stored_sha256"]
        parts = tuple(Part(*part) for part in known["parts"])

    restorer = FilesSource("tree", {"base": str(tree), "patterns": ["**"], "exclude": []}, {}).restorer(
        Place(tree.parent / "scratch", "bench")
    )
    restorer.prepare(open_stream(storage, FOLDER, Entry(), identity))
    prepared = time.perf_counter() - began
    expectations = get_expectations(storage, FOLDER, known["expectations"], identity)
    bad = [finding.detail for finding in restorer.validate(expectations) if finding.status == "fail"]
    if bad:
        raise SystemExit(f"the restored tree differs: {bad[:5]}")
    validated = time.perf_counter() - began
    restorer.swap()
    restorer.discard()
    return {"seconds": time.perf_counter() - began - (validated - prepared), "validation": validated - prepared}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
