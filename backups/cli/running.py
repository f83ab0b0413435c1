"""``backup run``, ``verify`` and ``drill``: ask for the work, watch it, say how it went."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.machines import PROOF
from backups.models import BackupRecord, ProofRun
from backups.proof import request_proof, run_proof
from controlplane.kernel.errors import Refused

from . import exits, facts
from .output import Output, size

OVER = frozenset({"committed", "failed", "cancelled", "expiring", "deleting", "deleted"})
_PROOF_EXITS = {
    "passed": exits.DONE, "failed": exits.FAILED, "not_possible": exits.NOT_POSSIBLE, "unknown": exits.UNKNOWN,
    "cancelled": exits.FAILED,
}  # fmt: skip
_MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


def whoami() -> str:
    """Who asked, for the record: the login name of this process."""
    return f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or os.getuid()} (command line)"


def here() -> str:
    """The owner of a lease that this process takes."""
    return f"cli@{socket.gethostname()}:{os.getpid()}"


@contextmanager
def identity_here(options: Mapping[str, Any]) -> Iterator[None]:
    """``--identity`` for what this process itself does; Refused without ``--here``, since a worker has its own."""
    if not options["identity"]:
        yield
        return
    if not options["here"]:
        raise Refused("--identity is for work in this process.", remedy="Add --here, or leave --identity out.")
    name = "ZANTARA_DRILL_IDENTITY_FILE"
    before = os.environ.get(name)
    os.environ[name] = str(Path(options["identity"]).resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# --- runs ---------------------------------------------------------------------------------------------------------


def run(options: Mapping[str, Any], output: Output) -> int:
    return tell_record(run_plan(options, output), output)


def run_plan(options: Mapping[str, Any], output: Output) -> BackupRecord:
    """The record, over, or (only ``--here``) waiting for another attempt."""
    plan = facts.find_plan(options["plan"])
    record = request_backup(
        plan, trigger="manual", requested_by=whoami(), reason=options["reason"], only_sources=options["source"]
    )
    if record is None:
        raise Refused(f"A run of the plan {plan.name} waits already.", remedy="See `manage.py backup list`.")
    if options["here"]:
        ran = run_backup(record.pk, owner=here())
        if ran is not None and ran.state == "queued":
            return ran
    followed: BackupRecord = output.follow(record, record.name, lambda row: row.state in OVER)
    return followed


def tell_record(record: BackupRecord, output: Output) -> int:
    output.document(facts.record_as_json(record, lines=True))
    return show_record(record, output)


def show_record(record: BackupRecord, output: Output) -> int:
    if record.state == "queued":
        output.line(f"✗ {record.name}: {record.error}")
        output.line(f"  A worker tries again at {record.due_at:%H:%M:%S} UTC (attempt {record.attempt + 1}).")
        return exits.FAILED
    if record.state != "committed":
        output.line(f"✗ {record.name} {record.state}: {record.error or 'somebody asked it to stop'}")
        return exits.FAILED
    for warning in record.warnings:
        output.line(f"! {warning}")
    for artifact in record.artifacts.all():
        output.line(f"  {artifact.name}: {size(artifact.plain_bytes)} → {size(artifact.stored_bytes)}")
    took = (record.finished_at - record.started_at).total_seconds() if record.finished_at and record.started_at else 0
    sizes = f"{size(record.plain_bytes)} → {size(record.stored_bytes)}"
    output.line(f"✓ {record.name} committed to {record.target.name}: {sizes} in {took:.1f} s")
    return exits.WARNINGS if record.warnings else exits.DONE


# --- proofs -------------------------------------------------------------------------------------------------------


def verify(options: Mapping[str, Any], output: Output) -> int:
    return tell_proof(prove(facts.find_record(options["name"]), options["level"], options, output), output)


def drill(options: Mapping[str, Any], output: Output) -> int:
    return tell_proof(prove(facts.find_record(options["name"]), ProofRun.Level.L3, options, output), output)


def prove(record: BackupRecord, level: int, options: Mapping[str, Any], output: Output) -> ProofRun:
    """One climb of the ladder, by the proof worker or in this process (``--here``, with ``--identity``)."""
    facts.demand_parts(record, options["part"])
    with identity_here(options):
        proof = request_proof(
            record, level=level, trigger="manual", requested_by=whoami(), only_artifacts=options["part"]
        )
        if options["here"]:
            run_proof(proof.pk, owner=here())
    what = f"{record.name} {facts.LEVELS[level]}"
    followed: ProofRun = output.follow(proof, what, lambda row: row.state in PROOF.terminal_states)
    return followed


def tell_proof(proof: ProofRun, output: Output) -> int:
    output.document(facts.proof_as_json(proof))
    return show_proof(proof, output)


def show_proof(proof: ProofRun, output: Output) -> int:
    for finding in proof.findings:
        mark = _MARKS.get(finding.get("status", ""), "·")
        output.line(f"  {mark} {finding.get('artifact', '')}: {finding.get('detail', '')}")
    level, name = facts.LEVELS[proof.level], proof.record.name
    words = {
        "passed": f"✓ {name}: {level}, proven",
        "failed": f"✗ {name}: {level} FAILED. {proof.error}",
        "unknown": f"? {name}: {level} unknown, nothing was learned. {proof.error}",
        "not_possible": f"– {name}: {level} not possible. {proof.error}",
    }
    output.line(words.get(proof.state, f"{name}: {level} {proof.state}"))
    return _PROOF_EXITS.get(proof.state, exits.FAILED)
