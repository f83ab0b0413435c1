"""Where drills restore to: a private directory per artifact, gone afterwards, also when the worker was killed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backups.sources.base import Place
from controlplane.kernel.local_secrets import data_dir

from .steps import step_reached


def scratch_root() -> Path:
    return data_dir() / "scratch" / "proofs"


@contextmanager
def scratch_place(pk: int) -> Iterator[Place]:
    """An empty private directory for the drill of one artifact of the proof ``pk``."""
    root = scratch_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=f"{pk}-", dir=root))
    try:
        step_reached("proof_scratch_made")
        yield Place(path=path, token=secrets.token_hex(5))
    finally:
        remove(path)


def remove(path: Path) -> None:
    """The whole tree, directories included that what was restored has made read-only."""
    for folder in [path, *(entry for entry in path.rglob("*") if entry.is_dir() and not entry.is_symlink())]:
        folder.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def leftovers() -> list[Path]:
    """The directories of proofs that are there; their names begin with the proof's number."""
    root = scratch_root()
    return list(root.iterdir()) if root.is_dir() else []
