"""Archives that somebody else made: nothing of them reaches outside, and nothing odd is taken in silence."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from backups.errors import Damaged
from backups.sources.tar_stream import BLOCK
from backups.sources.tree_extract import extract
from tests.backups.contracts.taking import pieces
from tests.backups.contracts.worlds import tree


def archive(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            body = b"evil" if member.isreg() else b""
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def entry(name: str, type_: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = type_, target, 0o644 if type_ == tarfile.REGTYPE else 0o755
    return member


def directory(name: str) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


HOSTILE = {
    "up": [entry("../escaped")],
    "up in the middle": [directory("a"), entry("a/../../escaped")],
    "absolute": [entry("/tmp/escaped")],
    "absolute link": [link("a", "/etc/passwd")],
    "link out": [link("a", "../escaped")],
    "link out from below": [directory("d"), link("d/a", "../../escaped")],
    "through a link": [link("a", "."), entry("a/escaped")],
    "through a link out": [link("a", ".."), entry("a/escaped")],
    "links that lead out together": [
        directory("x"), directory("x/y"), link("x/y/b", "../.."), link("a", "x/y/b/.."),
    ],
    "links that lead out together, the first one first": [
        directory("x"), directory("x/y"), link("a", "x/y/b/.."), link("x/y/b", "../.."),
    ],
    "hard link": [entry("a"), entry("b", tarfile.LNKTYPE, "a")],
    "hard link out": [entry("b", tarfile.LNKTYPE, "/etc/passwd")],
    "character device": [entry("a", tarfile.CHRTYPE)],
    "block device": [entry("a", tarfile.BLKTYPE)],
    "pipe": [entry("a", tarfile.FIFOTYPE)],
    "twice": [entry("a"), entry("a")],
    "a file over a link": [link("a", "b"), entry("a")],
    "a link over a directory": [directory("a"), link("a", "b")],
    "below a file": [entry("a"), entry("a/b")],
    "empty name": [entry("")],
    "dot": [entry("./a")],
}  # fmt: skip


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(
    members: list[tarfile.TarInfo], tmp_path: Path
) -> None:
    root = tmp_path / "outer" / "root"
    root.mkdir(parents=True)
    before = {name: entry for name, entry in tree(tmp_path).items() if not name.startswith("outer/root")}
    with pytest.raises(Damaged) as caught:
        extract(pieces(archive(*members)), root)
    assert caught.value.remedy
    after = {name: entry for name, entry in tree(tmp_path).items() if not name.startswith("outer/root")}
    assert after == before
    assert not Path("/tmp/escaped").exists()


def test_what_is_harmless_is_extracted_with_its_modes(tmp_path: Path) -> None:
    setuid = entry("d/program")
    setuid.mode = 0o6755
    data = archive(directory("d"), setuid, link("d/to", "program"), entry("implicit/parents/file"))
    assert extract(pieces(data, 7), tmp_path) == 4
    assert {name: what[0] for name, what in tree(tmp_path).items()} == {
        "d": "directory", "d/program": "file", "d/to": "link",
        "implicit": "directory", "implicit/parents": "directory", "implicit/parents/file": "file",
    }  # fmt: skip
    assert (tmp_path / "d" / "program").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("size", [1, 511, 512, 513, 4096, 100_000])
def test_the_chunks_borders_do_not_matter(size: int, tmp_path: Path) -> None:
    data = archive(directory("d"), entry("d/a"), entry("é" * 80), entry("d/b"))
    assert extract(pieces(data, size), tmp_path) == 4


def test_an_archive_cut_at_any_block_is_damaged(tmp_path: Path) -> None:
    data = archive(directory("d"), entry("d/a"), entry("é" * 80), entry("d/b"))
    end = len(data.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for number, length in enumerate(range(0, end + 1, BLOCK // 2)):
        root = tmp_path / str(number)
        root.mkdir()
        with pytest.raises(Damaged):
            extract(pieces(data[:length]), root)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data[:BLOCK] + b"x" * BLOCK + data[BLOCK:],
        lambda data: data[:-1] + b"x",
        lambda _: b"PK\x03\x04" + b"x" * 2000,
        lambda data: data.replace(b"path=", b"pa\0h\n", 1),
    ],
    ids=["a bit in a header", "a block too much", "something after the end", "no tar", "a pax header of nonsense"],
)
def test_a_spoiled_archive_is_damaged(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = archive(entry("é" * 80), entry("a"))
    spoiled = spoil(data)
    assert spoiled != data
    with pytest.raises(Damaged):
        extract(pieces(spoiled), tmp_path)
