"""Put a tree back file by file: each file is replaced by one rename, the old one kept beside until it is discarded.

Below ``<base>/.zantara-restore-<token>/`` stand ``new`` (what was extracted), ``old`` (what the swap replaced) and
``made`` (directories that the swap made). Which of them holds an entry says how far the swap came, so that any
process can go on or back without a journal of single files:

    in new, not in old   not touched yet              in new and in old    kept, not replaced yet
    in old, not in new   replaced                     in neither           added, there was nothing before

Files that are live and not in the backup are left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from backups.errors import Damaged, RestoreFailed

from .base import Finding, Place, Restorer
from .tar_tree import RESTORE_PREFIX, Counted, compare_entries
from .tree_extract import extract, listing_from_disk

#: Restoring beside needs the new files; the old ones are kept by links, without new space.
SPACE_FACTOR = 2
#: Up to so many files are made durable one by one; for more the whole system is told to write.
FEW_FILES = 500


def free_bytes(path: Path) -> int:
    """Free for this user where ``path`` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


class TreeRestorer(Restorer):
    """Restores below ``base``; ``memory``: base and token."""

    def __init__(self, base: Path, place: Place) -> None:
        super().__init__()
        self._base, self._token = base, place.token

    @property
    def base(self) -> Path:
        return Path(self.memory.get("base", self._base))

    @property
    def staging(self) -> Path:
        return self.base / f"{RESTORE_PREFIX}{self.memory.get('token', self._token)}"

    def preflight(self, plain_bytes: int) -> list[Finding]:
        findings = []
        present = next(path for path in (self.base, *self.base.parents) if path.exists())
        if not present.is_dir():
            return [Finding("fail", f"{present} is not a directory: move it away or restore elsewhere")]
        if not os.access(present, os.W_OK | os.X_OK):
            findings.append(Finding("fail", f"{present} cannot be written by this user: change its owner or mode"))
        elif not self.base.exists():
            findings.append(Finding("warn", f"{self.base} does not exist and will be made"))
        free = free_bytes(self.base)
        if free < SPACE_FACTOR * plain_bytes:
            findings.append(
                Finding(
                    "fail", f"{free} bytes are free at {self.base}, {SPACE_FACTOR * plain_bytes} are needed: make room"
                )
            )
        return findings or [Finding("pass", f"{self.base} can be written and has room")]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self.memory.update(base=str(self.base), token=self.memory.get("token", self._token))
        self.discard()
        made = [path for path in (self.base, *self.base.parents) if not path.exists()]
        self.memory["made"] = [str(path) for path in made]
        self.base.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(mode=0o700)
        for name in ("new", "old", "made"):
            (self.staging / name).mkdir(mode=0o700)
        extract(chunks, self.staging / "new")
        entries = _entries(self.staging / "new")
        (self.staging / "entries.json").write_text(json.dumps(entries), encoding="utf-8")
        _make_durable(self.staging / "new", [path for path, type_ in entries if type_ == "file"])

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        if not (self.staging / "entries.json").exists():
            return [Finding("fail", f"nothing stands in {self.staging}: prepare the restore again")]
        return compare_entries(expectations, listing_from_disk(self.staging / "new"))

    def swap(self) -> None:
        new = self.staging / "new"
        entries = self._entries()
        if not entries:
            raise RestoreFailed(f"Nothing stands in {self.staging}.", remedy="Prepare the restore again.")
        for path, type_ in entries:
            live, kept = self.base / path, self._old(path)
            if type_ == "directory":
                if not _is_directory(live):
                    if os.path.lexists(live):
                        _rename(live, kept)
                    self._made(path).touch()
                    live.mkdir()
                if self._made(path).exists():
                    shutil.copystat(new / path, live)
                    _take_owner(new / path, live)
            elif os.path.lexists(new / path):
                _keep(live, kept)
                _move(new / path, live)
        _sync_directories({(self.base / path).parent for path, _ in entries})

    def undo(self) -> None:
        new = self.staging / "new"
        for path, type_ in reversed(self._entries()):
            live, kept = self.base / path, self._old(path)
            if type_ == "directory":
                if self._made(path).exists() and _is_directory(live):
                    with suppress(OSError):  # somebody else put something into it
                        live.rmdir()
            elif (
                not os.path.lexists(new / path)
                and os.path.lexists(live)
                and (_is_directory(kept) or not os.path.lexists(kept))
            ):
                _move(live, new / path)
            if os.path.lexists(kept):
                _put_back(kept, live)
        _sync_directories({(self.base / path).parent for path, _ in self._entries()})

    def _old(self, path: str) -> Path:
        """Where what was live at ``path`` is kept: flat, so that no directory is there for another's sake."""
        return self.staging / "old" / _flat(path)

    def _made(self, path: str) -> Path:
        """The mark that the swap made this directory."""
        return self.staging / "made" / _flat(path)

    def discard(self) -> None:
        if self.staging.exists():
            shutil.rmtree(self.staging)
        for path in self.memory.get("made", ()):
            with suppress(OSError):  # not empty: the restore succeeded
                Path(path).rmdir()

    def _entries(self) -> list[tuple[str, str]]:
        try:
            return [(path, type_) for path, type_ in json.loads((self.staging / "entries.json").read_text("utf-8"))]
        except FileNotFoundError:
            return []


def _entries(root: Path) -> list[tuple[str, str]]:
    """Paths with their types, parents before children; a path's odd bytes survive JSON as surrogates."""
    found: list[tuple[str, str]] = []
    for folder, directories, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative + "/"
        for name in directories:
            is_link = os.path.islink(f"{folder}/{name}")  # noqa: PTH114  (thousands of them; no Path for each)
            found.append((prefix + name, "link" if is_link else "directory"))
        found.extend((prefix + name, "file") for name in files)
    return sorted(found)


def _flat(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _keep(live: Path, kept: Path) -> None:
    """Link what is live into ``old``, once: a second call must not replace it by what was restored meanwhile."""
    if os.path.lexists(kept) or not os.path.lexists(live):
        return
    if _is_directory(live):
        _rename(live, kept)
        return
    try:
        os.link(live, kept, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        half = kept.with_name(kept.name + ".half")
        _copy(live, half)
        half.rename(kept)


def _put_back(kept: Path, live: Path) -> None:
    if _is_directory(kept):
        if not os.path.lexists(live):
            _rename(kept, live)
        return
    with suppress(FileNotFoundError):
        if os.path.samestat(kept.lstat(), live.lstat()):
            return
    beside = kept.with_name(kept.name + ".back")
    beside.unlink(missing_ok=True)
    try:
        os.link(kept, beside, follow_symlinks=False)
    except OSError:
        _copy(kept, beside)
    _move(beside, live)


def _move(source: Path, target: Path) -> None:
    """Put ``source`` where ``target`` is: by one rename, or as near to it as a mount point allows."""
    if _is_directory(target):
        raise RestoreFailed(f"{target} became a directory meanwhile.", remedy="Move it away and try again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _rename(source, target)


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.EXDEV:  # another file system is mounted below the base
            beside = target.with_name(f"{RESTORE_PREFIX}{target.name}")
            _copy(source, beside)
            beside.rename(target)
        elif error.errno == errno.EBUSY:  # the file itself is a mount (a container's bound .env): only its content
            with source.open("rb") as read, target.open("wb") as write:
                shutil.copyfileobj(read, write)
        else:
            raise
        if _is_directory(source):
            shutil.rmtree(source)
        else:
            source.unlink()


def _copy(source: Path, target: Path) -> None:
    if _is_directory(source):
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        target.unlink(missing_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        _take_owner(source, target)


def _take_owner(source: Path, target: Path) -> None:
    if os.geteuid() == 0:
        info = source.lstat()
        os.lchown(target, info.st_uid, info.st_gid)


def _make_durable(root: Path, paths: list[str]) -> None:
    if len(paths) > FEW_FILES:
        os.sync()
        return
    for path in paths:
        if not (root / path).is_symlink():
            with (root / path).open("rb") as file:
                os.fsync(file.fileno())


def _sync_directories(folders: set[Path]) -> None:
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def drill_tree(chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
    """Extract into scratch, read everything back from the disk, compare."""
    root, counted = place.path / "tree", Counted(chunks)
    root.mkdir()
    try:
        extract(iter(counted), root)
    except Damaged as error:
        return [Finding("fail", error.message)]
    return compare_entries(expectations, listing_from_disk(root), stream_bytes=counted.bytes)
