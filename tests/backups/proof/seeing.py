"""What the tests of proofs do to a set, and what they read of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backups.models import Artifact, BackupRecord, ProofRun
from backups.proof import request_proof, run_proof
from backups.storage.targets import local_root


def proven(record: BackupRecord, level: int, **request: Any) -> ProofRun:
    """Asked for and carried out here; the row as it ended."""
    record.refresh_from_db()
    proof = request_proof(record, level=level, trigger=request.pop("trigger", "manual"), **request)
    ended = run_proof(proof.pk, owner="test")
    assert ended is not None
    assert (ended.lease_owner, ended.lease_expires_at) == ("", None)
    return ended


def artifact(record: BackupRecord, name: str = "uploads") -> Artifact:
    return Artifact.objects.get(record=record, name=name)


def folder(record: BackupRecord) -> Path:
    return local_root(record.target) / record.prefix


def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(body: bytes, place: int = -100) -> bytes:
    changed = bytearray(body)
    changed[place] ^= 4
    return bytes(changed)


def said(proof: ProofRun, status: str) -> list[str]:
    return [f"{one['artifact']}: {one['detail']}" for one in proof.findings if one["status"] == status]
