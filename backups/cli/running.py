"""``backup run``, ``verify`` and ``drill``: ask for the work, watch it, say how it went."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backups.engine.requests import request_backup
from backups.engine.run import run_backup
from backups.machines import PROOF
from backups.models import BackupRecord, ProofRun
from backups.proof import request_proof, run_proof
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused

from . import exits, facts
from .output import Output, size

_OVER = frozenset({"committed", "failed", "cancelled", "expiring", "deleting", "deleted"})
_PROOF_EXITS = {
    "passed": exits.DONE, "failed": exits.FAILED, "not_possible": exits.NOT_POSSIBLE, "unknown": exits.UNKNOWN,
    "cancelled": exits.FAILED,
}  # fmt: skip


def whoami() -> str:
    """Who asked, for the record: the login name of this process."""
    return f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or os.getuid()} (command line)"


def here() -> str:
    """The owner of a lease that this process takes."""
    return f"cli@{socket.gethostname()}:{os.getpid()}"


def run(options: Mapping[str, Any], output: Output) -> int:
    plan = facts.find_plan(options["plan"])
    record = request_backup(
        plan, trigger="manual", requested_by=whoami(), reason=options["reason"], only_sources=options["source"]
    )
    if record is None:
        raise Refused(f"A run of the plan {plan.name} waits already.", remedy="See `manage.py backup list`.")
    if options["here"]:
        run_backup(record.pk, owner=here())
    record = output.follow(record, record.name, lambda row: row.state in _OVER)
    return tell_record(record, output)


def tell_record(record: BackupRecord, output: Output) -> int:
    output.document(facts.record_as_json(record, lines=True))
    if record.state != "committed":
        output.line(f"✗ {record.name} {record.state}: {record.error or 'no reason was noted'}")
        return exits.FAILED
    for warning in record.warnings:
        output.line(f"! {warning}")
    for artifact in record.artifacts.all():
        output.line(f"  {artifact.name}: {size(artifact.plain_bytes)} → {size(artifact.stored_bytes)}")
    seconds = (
        (record.finished_at - record.started_at).total_seconds() if record.finished_at and record.started_at else 0
    )
    output.line(
        f"✓ {record.name} committed to {record.target.name}: {size(record.plain_bytes)} → {size(record.stored_bytes)}"
        f" in {seconds:.1f} s"
    )
    return exits.WARNINGS if record.warnings else exits.DONE


def verify(options: Mapping[str, Any], output: Output) -> int:
    return prove(facts.find_record(options["name"]), options["level"], options, output)


def drill(options: Mapping[str, Any], output: Output) -> int:
    return prove(facts.find_record(options["name"]), ProofRun.Level.L3, options, output)


def prove(record: BackupRecord, level: int, options: Mapping[str, Any], output: Output) -> int:
    """One climb of the ladder, by the proof worker or in this process (``--here``, with ``--identity``)."""
    proof = request_proof(
        record, level=level, trigger="manual", requested_by=whoami(), only_artifacts=options.get("part") or ()
    )
    if options["here"]:
        if options["identity"]:
            os.environ["ZANTARA_DRILL_IDENTITY_FILE"] = str(Path(options["identity"]).resolve())
        run_proof(proof.pk, owner=here(), now=clock.now())
    proof = output.follow(proof, f"{record.name} {facts.LEVELS[level]}", lambda row: row.state in PROOF.terminal_states)
    return tell_proof(proof, output)


def tell_proof(proof: ProofRun, output: Output) -> int:
    output.document(facts.proof_as_json(proof))
    marks = {"pass": "✓", "warn": "!", "fail": "✗"}
    for finding in proof.findings:
        mark = marks.get(finding.get("status", ""), "·")
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
