"""A local directory as a release: copied without what is made again, and hashed as it is copied."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from deployments.errors import FetchFailed

#: Left out wherever it is.
LEFT_OUT = frozenset(
    {
        ".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache",
        ".hypothesis", ".tox", ".nox", ".DS_Store",
    }
)  # fmt: skip
#: Left out at the top only: further down it may be a package of that name.
LEFT_OUT_AT_TOP = frozenset({"var", "venv"})
_CHUNK = 2**20


def is_left_out(path: Path, *, at_top: bool) -> bool:
    """Whether a release does without it: histories, environments, caches, data."""
    return (
        path.name in LEFT_OUT
        or (at_top and path.name in LEFT_OUT_AT_TOP)
        or path.suffix in (".pyc", ".pyo")
        or (path / "pyvenv.cfg").is_file()
    )


def copy_tree(source: Path, target: Path, destination: Path, say: Callable[[str], None]) -> tuple[str, int, int]:
    """Copy a directory; its tree hash, how many files and bytes. FetchFailed where it cannot be."""
    if not source.is_dir():
        raise FetchFailed(
            f"The directory {source} does not exist.", remedy="Correct the release's source, or put it there."
        )
    source = source.resolve()
    _refuse_nesting(source, destination.resolve())
    target.mkdir(mode=0o755, parents=True)
    for path in _entries(source, source):
        relative = path.relative_to(source)
        copy = target / relative
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            _copy_link(path, copy, source, say)
        elif stat.S_ISDIR(kind):
            copy.mkdir()
            shutil.copymode(path, copy)
            copy.chmod(stat.S_IMODE(copy.stat().st_mode) | stat.S_IRWXU)  # we must write into it
        elif stat.S_ISREG(kind):
            shutil.copy2(path, copy)
        else:
            say(f"left out: {relative} is neither a file nor a directory")
    return hash_tree(target)


def hash_tree(folder: Path) -> tuple[str, int, int]:
    """``sha256:…`` over names, kinds, executability and contents, without ``.git``; how many files and bytes.

    The same tree has the same hash on every machine; times and owners do not count.
    """
    whole, count, size = hashlib.sha256(), 0, 0
    for path in sorted(_entries(folder, folder), key=lambda one: one.relative_to(folder).as_posix()):
        kind = path.lstat().st_mode
        name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
        if stat.S_ISLNK(kind):
            mark, content = b"link", hashlib.sha256(os.fsencode(path.readlink())).digest()
        elif stat.S_ISREG(kind):
            mark = b"program" if kind & stat.S_IXUSR else b"file"
            content, length = _hash_file(path)
            size += length
            count += 1
        else:
            mark, content = b"directory", b""
        whole.update(len(name).to_bytes(4, "big") + name + b"\0" + mark + b"\0" + content)
    return f"sha256:{whole.hexdigest()}", count, size


def _hash_file(path: Path) -> tuple[bytes, int]:
    content, length = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
            length += len(chunk)
    return content.digest(), length


def _entries(folder: Path, top: Path) -> Iterator[Path]:
    """Everything below, a directory before what is in it."""
    for path in sorted(folder.iterdir()):
        if is_left_out(path, at_top=folder == top):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path, top)


def _copy_link(path: Path, copy: Path, source: Path, say: Callable[[str], None]) -> None:
    """Keep a link that stays inside, relative whatever it was; leave out one that leads out."""
    leads_to = path.resolve()
    if not leads_to.is_relative_to(source):
        say(f"left out: the link {path.relative_to(source)} leads out of the directory")
        return
    written = path.readlink()
    copy.symlink_to(written if not written.is_absolute() else os.path.relpath(leads_to, path.parent.resolve()))


def _refuse_nesting(source: Path, destination: Path) -> None:
    """A copy into itself would have no end, unless it goes where nothing is copied from."""
    if source.is_relative_to(destination.parent):
        raise FetchFailed(f"{source} is itself a checkout of a release.", remedy="Name the directory it came from.")
    if not destination.is_relative_to(source):
        return
    place = source
    for depth, part in enumerate(destination.relative_to(source).parts):
        place = place / part
        if is_left_out(place, at_top=depth == 0):
            return
    raise FetchFailed(
        f"{source} holds the data directory of this installation: the copy would hold itself.",
        remedy="Name the directory of the service alone, or set ZANTARA_DATA_DIR to a place outside of it.",
    )
