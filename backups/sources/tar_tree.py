"""Trees of files as tar streams: GNU tar is the producer, fed from a sorted scan; the passing stream is listed.

A file that vanishes, shrinks, grows or cannot be read is a warning in the record. A source in which nothing matches
is refused: an empty backup looks exactly like a working one until it is needed. Names below ``.zantara-restore-…``
belong to restores and are never captured.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from backups.errors import CaptureFailed, Damaged
from controlplane.kernel.errors import Refused

from .base import Capture, Captured, Finding
from .compare import differences, shortened, verdict
from .programs import Program
from .tar_stream import Listing, TarReader, as_text, describe_change

RESTORE_PREFIX = ".zantara-restore-"
#: Above this, tar writes larger records: fewer system calls, and nobody minds 256 KiB of padding.
SMALL_TREE_BYTES = 8 * 2**20
_CHANGED = "file changed as we read it"


@dataclass
class Scan:
    """What is to be captured: paths relative to the base, parents before children, and what was noticed."""

    paths: list[bytes] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    oldest_left_out: int = 0


def clean_patterns(name: str, lines: object, default: Sequence[str] = ()) -> list[str]:
    """Globs relative to the base; Refused where one is absolute or leads up."""
    given = lines.splitlines() if isinstance(lines, str) else lines
    if given is not None and not isinstance(given, list | tuple):
        raise Refused(f"{name} is a list of patterns.", remedy="Write one pattern per line.")
    patterns = [str(line).strip() for line in given or () if str(line).strip()] or list(default)
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts
        if pattern.startswith("/") or ".." in parts or "\0" in pattern:
            raise Refused(
                f"{name}: {pattern!r} does not stay below the base directory.",
                remedy="Write patterns relative to it, without “..”, or set another base directory.",
            )
    return patterns


def scan(base: Path, patterns: Sequence[str], *, exclude: Sequence[str] = (), newer_than: float | None = None) -> Scan:
    """Everything that the patterns match, directories with all below them; sorted, never through a link."""
    found = _Scanner(base, exclude, newer_than)
    for pattern in patterns:
        found.add(pattern)
    return found.result()


class _Scanner:
    def __init__(self, base: Path, exclude: Sequence[str], newer_than: float | None) -> None:
        self.base, self.newer_than = base, newer_than
        self.scan = Scan()
        self._excluded = re.compile("|".join(fnmatch.translate(p) for p in exclude)) if exclude else None
        self._paths: set[str] = set()
        self._taken: set[str] = set()  # looked at; a parent may be in _paths without having been walked
        self._real_parents: dict[str, bool] = {"": True}

    def add(self, pattern: str) -> None:
        before = len(self._paths) + self.scan.oldest_left_out
        plain = not set(pattern) & set("*?[")
        try:
            matches = [self.base / pattern] if plain else list(self.base.glob(pattern))
        except (OSError, ValueError) as error:
            self.scan.warnings.append(f"{pattern}: {error}")
            return
        for match in matches:
            self._take(os.path.relpath(match, self.base))
        # A name that is missing is worth a word; that nothing matches a pattern (no rotated logs yet) is usual.
        if plain and len(self._paths) + self.scan.oldest_left_out == before and pattern not in self._paths:
            self.scan.warnings.append(f"there is no {pattern} in {self.base}")

    def result(self) -> Scan:
        self.scan.paths = sorted(os.fsencode(path) for path in self._paths)
        return self.scan

    def _take(self, path: str) -> None:
        if path == ".":
            self._walk("")
        elif not self._skipped(path) and self._below_real_directories(path):
            self._entry(path, self.base / path)

    def _skipped(self, path: str) -> bool:
        if path in self._taken or any(part.startswith(RESTORE_PREFIX) for part in path.split("/")):
            return True
        return self._excluded is not None and self._excluded.match(path) is not None

    def _below_real_directories(self, path: str) -> bool:
        """Also notes the parents, so that a restore to an empty place knows their modes."""
        parent = path.rpartition("/")[0]
        known = self._real_parents.get(parent)
        if known is None:
            known = self._below_real_directories(parent)
            if known:
                info = _lstat(self.base / parent)
                known = info is not None and stat.S_ISDIR(info.st_mode)
                if info is not None and stat.S_ISLNK(info.st_mode):
                    self.scan.warnings.append(f"{parent} is a link: what is below it was left out")
            self._real_parents[parent] = known
        return known

    def _entry(self, path: str, place: Path | os.DirEntry[str]) -> None:
        self._taken.add(path)
        try:
            info = place.lstat() if isinstance(place, Path) else place.stat(follow_symlinks=False)
        except OSError as error:
            if error.errno != 2 or not isinstance(place, Path):
                self.scan.warnings.append(f"{path}: {error.strerror}")
            return
        if stat.S_ISDIR(info.st_mode):
            self._note(path)
            self._walk(path)
        elif stat.S_ISLNK(info.st_mode):
            if leads_out(path, str((self.base / path).readlink())):
                self.scan.warnings.append(f"{path} is a link out of {self.base}: it was left out")
            else:
                self._note(path)
        elif not stat.S_ISREG(info.st_mode):
            self.scan.warnings.append(f"{path} is neither a file nor a directory nor a link: it was left out")
        elif self.newer_than is not None and info.st_mtime < self.newer_than:
            self.scan.oldest_left_out += 1
        else:
            self._note(path)
            self.scan.files += 1
            self.scan.bytes += info.st_size

    def _note(self, path: str) -> None:
        while path and path not in self._paths:
            self._paths.add(path)
            path = path.rpartition("/")[0]

    def _walk(self, path: str) -> None:
        try:
            with os.scandir(self.base / path) as entries:
                for entry in entries:
                    below = f"{path}/{entry.name}" if path else entry.name
                    if not self._skipped(below):
                        self._entry(below, entry)
        except OSError as error:
            self.scan.warnings.append(f"{path or self.base}: {error.strerror}")


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def leads_out(path: str, target: str) -> bool:
    """Whether a link leads out of the tree. Through other links too: what passes here is checked again on restore."""
    where = os.path.normpath(os.path.join(os.path.dirname(path), target))  # noqa: PTH118, PTH120  (no such path exists)
    return os.path.isabs(target) or where == ".." or where.startswith("../")  # noqa: PTH117


def tar_version() -> str:
    try:
        said = subprocess.run(["tar", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return ""
    return said.partition("\n")[0]


class TreeCapture(Capture):
    """``growth_is_normal`` for logs: a file that grew while it was read is what it was when it was opened."""

    def __init__(self, base: Path, found: Scan, scratch: Path, *, growth_is_normal: bool = False) -> None:
        self._base, self._scan, self._scratch = base, found, scratch
        self._growth_is_normal = growth_is_normal
        self._listing = Listing()
        self._reader = TarReader(self._listing)
        self._stack = ExitStack()
        self._interrupted = False
        self._bytes = 0
        self._program: Program | None = None

    def __enter__(self) -> TreeCapture:
        names = self._scratch / "names"
        names.write_bytes(b"".join(path + b"\0" for path in self._scan.paths))
        records = "20" if self._scan.bytes < SMALL_TREE_BYTES else "512"
        argv = [
            "tar", "--create", "--file=-", "--format=pax", "--pax-option=delete=atime,delete=ctime,delete=mtime",
            f"--blocking-factor={records}", f"--directory={self._base}", "--no-recursion", "--hard-dereference",
            "--numeric-owner", "--quoting-style=escape", "--ignore-failed-read",
            "--null", "--verbatim-files-from", f"--files-from={names.absolute()}",
        ]  # fmt: skip
        with ExitStack() as stack:
            stack.callback(names.unlink, missing_ok=True)
            self._program = stack.enter_context(Program(argv))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def interrupt(self) -> None:
        self._interrupted = True
        if self._program is not None:
            self._program.interrupt()

    def chunks(self) -> Iterator[bytes]:
        assert self._program is not None  # noqa: S101  (used as a context manager)
        for chunk in self._program.chunks():
            self._bytes += len(chunk)
            try:
                self._reader.feed(chunk)
            except Damaged as error:
                raise CaptureFailed(f"{error.message}", remedy="Run the backup again.") from None
            yield chunk

    def finish(self) -> Captured:
        assert self._program is not None  # noqa: S101
        code = self._program.wait()
        complaints = [line.removeprefix("tar: ") for line in self._program.complaint.splitlines() if line.strip()]
        if code not in (0, 1) or self._interrupted:  # 1: some files changed while they were read
            raise CaptureFailed(
                f"tar ended with {code}: {' / '.join(complaints)[-500:] or 'it said nothing'}",
                remedy="Correct what it names and run the backup again.",
            )
        try:
            self._reader.close()
        except Damaged as error:
            raise CaptureFailed(error.message, remedy="Run the backup again.") from None
        self._refuse_escapes()
        if not self._listing.entries or not self._listing.files:
            raise CaptureFailed(
                f"No file in {self._base} could be read: {' / '.join(complaints)[-500:] or 'all vanished'}",
                remedy="Give this user the right to read them, or correct the patterns.",
            )
        return Captured(
            expectations={"format": 1, "bytes": self._bytes, "entries": self._listing.entries},
            summary={"files": self._listing.files, "bytes": self._listing.bytes},
            tools={"tar": tar_version()},
            warnings=shortened([*self._scan.warnings, *self._warnings(complaints)]),
        )

    def _refuse_escapes(self) -> None:
        """A file that became a link out of the tree between scan and reading would make the whole set useless."""
        for path, entry in self._listing.entries.items():
            if entry[0] == "link" and leads_out(path, entry[4]):
                raise CaptureFailed(
                    f"{path} became a link out of {self._base} while it was read.", remedy="Run the backup again."
                )

    def _warnings(self, complaints: list[str]) -> list[str]:
        missing = [as_text(path) for path in self._scan.paths if as_text(path) not in self._listing.entries]
        said = "\n".join(complaints)
        warnings = [f"{path}: it vanished or could not be read" for path in missing if f"{path}:" not in said]
        for line in complaints:
            if self._growth_is_normal and line.endswith(_CHANGED):
                continue
            warnings.append(line.replace("Warning: ", ""))
        return warnings


class Counted:
    """The same chunks, and how many bytes they were."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self.bytes = chunks, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            yield chunk


def inspect_tree(chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
    """L2 of a tree: every file's bytes hashed again, nothing written."""
    listing, counted = Listing(), Counted(chunks)
    reader = TarReader(listing)
    try:
        for chunk in counted:
            reader.feed(chunk)
        reader.close()
    except Damaged as error:
        return [Finding("fail", error.message)]
    return compare_entries(expectations, listing.entries, stream_bytes=counted.bytes)


def compare_entries(
    expectations: Mapping[str, Any], entries: Mapping[str, Any], *, stream_bytes: int | None = None
) -> list[Finding]:
    """Exactly, file by file; and the stream's length, whose end is padding that no file needs."""
    problems = differences("file", expectations["entries"], entries, describe=describe_change)
    if stream_bytes is not None and stream_bytes != expectations["bytes"] and not problems:
        problems = [Finding("fail", f"the archive has {stream_bytes} bytes instead of {expectations['bytes']}")]
    count = sum(1 for entry in entries.values() if entry[0] == "file")
    return verdict(problems, f"{count} files are exactly as they were")


def capture_tree(
    base: Path, found: Scan, scratch: Path, *, growth_is_normal: bool = False
) -> AbstractContextManager[Capture]:
    """Begin; CaptureFailed where there is nothing to save."""
    if not base.is_dir():
        raise CaptureFailed(f"There is no directory {base}.", remedy="Correct the source's base directory.")
    if not found.files:
        raise CaptureFailed(
            f"Nothing to save in {base}: {'; '.join(found.warnings[:5]) or 'no file matches'}.",
            remedy="Correct the source's patterns: an empty backup is refused.",
        )
    return TreeCapture(base, found, scratch, growth_is_normal=growth_is_normal)
