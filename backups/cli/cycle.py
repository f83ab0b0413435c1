"""``backup test`` and ``backup recovery-test``: a full cycle on the running stack, and what it proved."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError

from backups.machines import RESTORE
from backups.models import Artifact, BackupPlan, BackupRecord, BackupSource, ProofRun
from backups.restore.requests import request_restore
from backups.seed import PLAN
from backups.sources.memory_vectors import MemoryVectorsSource
from backups.sources.vectors_http import Endpoint, Export, read, replace_all
from controlplane.kernel.errors import Refused, Unavailable

from . import exits, facts
from .output import Output, size
from .restoring import show_restore
from .running import OVER, prove, run_plan, show_proof, show_record, whoami

QUEUES = ("work", "proof")
ANSWER_SECONDS = 3
_DIMENSIONS = 384
_BY_WORKERS: Mapping[str, Any] = {"here": False, "identity": None, "part": []}


def demand_workers() -> None:
    """Unavailable unless somebody works on the queues of backups and of proofs."""
    remedy = "Start the stack with `make run` in another terminal, wait for “ready”, and try again."
    try:
        with current_app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER_SECONDS)
        answers = current_app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
    except (OperationalError, OSError) as error:
        raise Unavailable(
            f"No stack runs: its Redis does not answer ({type(error).__name__}).", remedy=remedy
        ) from None
    served = {queue["name"] for queues in answers.values() for queue in queues}
    if missing := [name for name in QUEUES if name not in served]:
        raise Unavailable(f"No stack runs: nobody works on {' and '.join(missing)}.", remedy=remedy)


def _plan(name: str | None) -> BackupPlan:
    has_seeded = BackupPlan.objects.filter(name=PLAN).exists()
    return facts.find_plan(name or (PLAN if has_seeded else None))


def _run(plan: BackupPlan, sources: list[str], reason: str, output: Output) -> BackupRecord:
    """A run of its own, after the one that may be going on (the very first, on a stack that has just started)."""
    going = BackupRecord.objects.filter(plan=plan, state__in=("queued", "running")).order_by("pk").first()
    if going is not None:
        output.line(f"waiting for {going.name}, which is {going.state}")
        output.follow(going, going.name, lambda row: row.state in OVER)
    return run_plan({"plan": plan.name, "source": sources, "reason": reason, "here": False}, output)


# --- backup, verify, drill -------------------------------------------------------------------------------------------


def backup_test(options: Mapping[str, Any], output: Output) -> int:
    """Save everything, read it back, restore it into scratch: every part, by the stack's own workers."""
    demand_workers()
    output.line("1/3 a backup of every source")
    record = _run(_plan(options["plan"]), [], "backup test", output)
    code = show_record(record, output)
    proofs: list[ProofRun] = []
    if record.state == "committed":
        for number, (level, what) in enumerate(((2, "the set read through"), (3, "the restore drill")), start=2):
            output.line(f"{number}/3 {what}")
            proofs.append(prove(record, level, _BY_WORKERS, output))
            code = max(code, show_proof(proofs[-1], output))
            if proofs[-1].state != "passed":
                break
    parts = list(record.artifacts.all())
    proven = bool(parts) and all(part.proof_level == ProofRun.Level.L3 for part in parts)
    output.document(
        {
            "proven": proven,
            "record": facts.record_as_json(record),
            "proofs": [facts.proof_as_json(proof) for proof in proofs],
        }
    )
    _show_proven(record, parts, proven, output)
    return exits.DONE if proven else code or exits.FAILED


def _show_proven(record: BackupRecord, parts: list[Artifact], proven: bool, output: Output) -> None:
    rows = [
        [
            part.name,
            ", ".join(f"{value} {name}" for name, value in list(part.summary.items())[:3]) or "–",
            size(part.plain_bytes),
            "–" if part.proof_level is None else facts.LEVELS[part.proof_level],
            "–" if part.restore_seconds is None else f"{part.restore_seconds:.2f} s",
        ]
        for part in parts
    ]
    output.table(["part", "holds", "size", "proven", "restored in"], rows, "Nothing was saved.")
    if proven:
        seconds = sum(part.restore_seconds or 0.0 for part in parts)
        output.line(f"✓ proven: every part of {record.name} restores, in {seconds:.1f} s altogether")
    else:
        output.line(f"✗ not proven: see what is said above about {record.name}")


# --- lose something, restore it ------------------------------------------------------------------------------------


def recovery_test(options: Mapping[str, Any], output: Output) -> int:
    """Put two marked vectors into the service's memory, save them, change them, restore, compare; then take them out.

    Whatever happens, the service has in the end what it had in the beginning.
    """
    demand_workers()
    plan = _plan(options["plan"])
    row = plan.sources.filter(kind=MemoryVectorsSource.kind, enabled=True).order_by("name").first()
    if row is None:
        raise Refused(
            f"The plan {plan.name} saves no vectors of a service's memory, with which this test works.",
            remedy="Add a source of that kind, or restore another part by hand: `manage.py restore`.",
        )
    service = _Service(row)
    with service.kept() as kept:
        output.line(f"vectors that others write to {row.name} during this test are lost: it replaces them all")
        found = _lose_and_restore(plan, row, service, kept, output)
    output.document(found)
    if found["proven"]:
        output.line(
            f"✓ proven: of {found['vectors']} vectors one was changed, one deleted and one added since "
            f"{found['record']}; after the restore all are exactly as they were, in {found['seconds']:.1f} s"
        )
        return exits.DONE
    output.line(f"✗ not proven: {found['error']}")
    return exits.FAILED


def _lose_and_restore(
    plan: BackupPlan, row: BackupSource, service: _Service, kept: list[dict[str, Any]], output: Output
) -> dict[str, Any]:
    dimensions = len(kept[0].get("embedding") or ()) if kept else _DIMENSIONS
    mark = f"zantara-recovery-test-{time.time_ns()}"
    first, second, third = (_vector(f"{mark}-{number}", dimensions) for number in (1, 2, 3))
    service.put([*kept, first, second])
    before = service.digests()
    output.line("1/3 a backup of the vectors")
    record = _run(plan, [row.name], "recovery test", output)
    show_record(record, output)
    found: dict[str, Any] = {"proven": False, "record": record.name, "vectors": len(before), "seconds": 0.0}
    if record.state != "committed":
        return found | {"error": record.error}
    output.line("2/3 one vector is changed, one deleted, one added")
    service.put([*kept, {**first, "text": "changed after the backup"}, third])
    changed = service.digests()
    if len(before.keys() ^ changed.keys()) != 2 or before[first["id"]] == changed[first["id"]]:
        return found | {"error": "the service did not take the changes, so nothing could be restored"}
    output.line("3/3 the restore")
    restore = request_restore(record, artifacts=[row.name], requested_by=whoami(), reason="recovery test")
    begun = time.monotonic()
    with service.left_alone():
        restore = output.follow(restore, restore.name, lambda fresh: fresh.state in RESTORE.terminal_states)
    found |= {"seconds": time.monotonic() - begun, "restore": restore.name, "score": restore.score}
    if show_restore(restore, output) != exits.DONE:
        return found | {"error": restore.error}
    after = service.digests()
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return found | ({"error": f"not as they were: {', '.join(wrong[:5])}"} if wrong else {"proven": True})


def _vector(name: str, dimensions: int) -> dict[str, Any]:
    """A record of the test's own, of length 1 and unlike any text's."""
    value = 1 / math.sqrt(dimensions)
    return {"id": name, "text": name, "metadata": {"made_by": "recovery test"}, "embedding": [value] * dimensions}


class _Service:
    """The service whose vectors are lost and restored; everything in it is replaced at once."""

    def __init__(self, row: BackupSource) -> None:
        self.name = row.name
        self._endpoint: Endpoint = MemoryVectorsSource(row.name, row.settings, row.secrets).endpoint
        self._busy = False

    @contextmanager
    def kept(self) -> Iterator[list[dict[str, Any]]]:
        """What the service has now; it is put back in the end, unless a restore may still be at work on it."""
        records = [record for record in map(json.loads, self._lines()) if "id" in record]
        try:
            yield records
        finally:
            if not self._busy:
                self.put(records)

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Somebody else works on it; left by an interruption, they still do."""
        self._busy = True
        yield
        self._busy = False

    def put(self, records: list[dict[str, Any]]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            replace_all(self._endpoint, Path(file.name), len(records))

    def digests(self) -> dict[str, str]:
        with Export(self._endpoint) as export:
            return read(export.chunks(), needs_end=self._endpoint.ends_with_count).digests

    def _lines(self) -> list[bytes]:
        with Export(self._endpoint) as export:
            return [line for line in b"".join(export.chunks()).splitlines() if line.strip()]
