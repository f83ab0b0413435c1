"""Bytes on their way back: what was changed, cut, swapped or lost is found; a store that is away is not damage."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.errors import Damaged, StorageUnavailable
from backups.storage.local import LocalStorage
from backups.stream import open_stream, store_stream
from backups.stream.frames import Blocks

from .tools import FOLDER, Hurt, Kept, Key, cut, keep, noise, part_file, read, reader_that, stream_threads, text

#: age: header, then chunks of 64 KiB with a tag of 16 bytes each.
CHUNK = 65_536 + 16


def header_size(body: bytes) -> int:
    """Up to the end of the line that begins with ``---``, and the nonce of 16 bytes."""
    mac = body.index(b"\n--- ")
    return body.index(b"\n", mac + 1) + 1 + 16


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300_000),
    chunk=st.integers(1, 100_000),
    part_bytes=st.integers(1_000, 200_000),
    level=st.sampled_from([None, 1, 3]),
)
def test_any_bytes_in_any_chunks_and_parts_come_back(
    tmp_path_factory: pytest.TempPathFactory, key: Key, data: bytes, chunk: int, part_bytes: int, level: int | None
) -> None:
    store = LocalStorage(tmp_path_factory.mktemp("store"))
    stored, _ = store_stream(
        cut(data, chunk), storage=store, folder=FOLDER, recipients=[key.public], level=level, finish=lambda: None,
        part_bytes=part_bytes,
    )  # fmt: skip
    assert read(store, Kept.of(stored), key) == data


def test_a_part_that_is_cut_anywhere_is_found(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(300_000), key, level=None)
    file = part_file(store, 1)
    body = file.read_bytes()
    start = header_size(body)
    boundaries = [start + CHUNK * n for n in range((len(body) - start) // CHUNK + 1)]
    assert len(boundaries) >= 5
    for size in [0, 1, start - 1, *(b + d for b in boundaries for d in (-1, 0, 1)), len(body) - 1]:
        file.write_bytes(body[:size])
        with pytest.raises(Damaged, match="should have"):
            read(store, kept, key)


def test_a_stream_that_is_cut_at_any_chunk_is_found_by_age_alone(store: LocalStorage, key: Key) -> None:
    """Were the manifest wrong too (sizes and hashes of the cut file), the cipher still tells."""
    for level in (None, 3):
        kept = keep(store, noise(300_000), key, level=level)
        file = part_file(store, 1)
        body = file.read_bytes()
        start = header_size(body)
        for size in [*range(start, len(body), CHUNK), len(body) - 1]:
            file.write_bytes(body[:size])
            with pytest.raises(Damaged, match=r"cannot be decrypted to its end"):
                read(store, honest(kept, file), key)


def honest(kept: Kept, file: Path) -> Kept:
    """A manifest's entry that agrees with what is in the store."""
    from hashlib import sha256

    digest = sha256(file.read_bytes()).hexdigest()
    part = replace(kept.parts[0], size=file.stat().st_size, sha256=digest)
    return replace(kept, parts=(part, *kept.parts[1:]), stored_sha256=digest)


def test_one_flipped_bit_in_any_region_is_found(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(300_000), key, level=1)
    file = part_file(store, 1)
    body = file.read_bytes()
    start = header_size(body)
    regions = {
        "version line": range(21),
        "stanza": range(22, body.index(b"\n--- ")),
        "header mac": range(body.index(b"\n--- ") + 5, start - 17),
        "nonce": range(start - 16, start),
        "first chunk": range(start, start + 65_536),
        "its tag": range(start + 65_536, start + CHUNK),
        "last chunk": range(len(body) - 1000, len(body) - 16),
        "last tag": range(len(body) - 16, len(body)),
    }
    picks = random.Random(4)
    for region, places in regions.items():
        for place in picks.sample(places, 3):
            spoiled = bytearray(body)
            spoiled[place] ^= 1 << picks.randrange(8)
            file.write_bytes(spoiled)
            with pytest.raises(Damaged, match="was changed"):
                read(store, kept, key)
            if region != "stanza":  # there it may merely become another's
                with pytest.raises(Damaged):
                    read(store, honest(kept, file), key)
    file.write_bytes(body)
    assert read(store, kept, key) == noise(300_000)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_part_is_damage(store: LocalStorage, key: Key, number: int) -> None:
    kept = keep(store, noise(250_000), key, level=None, part_bytes=100_000)
    part_file(store, number).unlink()
    with pytest.raises(Damaged, match=f"part-0000{number}.age is missing"):
        read(store, kept, key)


def test_parts_that_changed_places_are_found(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(250_000), key, level=None, part_bytes=100_000)
    first, second = part_file(store, 1), part_file(store, 2)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(Damaged, match=r"part-0000[12].age was changed"):
        read(store, kept, key)
    swapped = replace(kept, parts=(kept.parts[1], kept.parts[0], kept.parts[2]))
    first.write_bytes(one)
    second.write_bytes(two)
    with pytest.raises(Damaged):
        read(store, swapped, key)


def test_bytes_behind_the_end_are_found(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(70_000), key, level=None)
    file = part_file(store, 1)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(Damaged, match="has more"):
        read(store, kept, key)
    with pytest.raises(Damaged):
        read(store, honest(kept, file), key)


def test_another_artifact_of_the_same_size_is_found(store: LocalStorage, key: Key) -> None:
    """Somebody who has the public keys can write a whole age file; the manifest's hashes are signed."""
    other = keep(store, noise(70_000, seed=2), key, level=None)
    forged = part_file(store, 1).read_bytes()
    kept = keep(store, noise(70_000), key, level=None)
    part_file(store, 1).write_bytes(forged)
    with pytest.raises(Damaged, match=r"was changed|should have"):
        read(store, kept, key)
    with pytest.raises(Damaged, match="was changed"):
        read(store, replace(kept, parts=(replace(kept.parts[0], size=len(forged)),)), key)
    with pytest.raises(Damaged, match="other bytes than were captured"):
        read(store, replace(other, plain_sha256=kept.plain_sha256), key)


def test_what_is_not_zstd_is_damage(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(70_000), key, level=None)
    with pytest.raises(Damaged, match="not a zstd stream"):
        read(store, replace(kept, compressed=True), key)


def test_a_zstd_frame_that_is_cut_is_damage_even_where_all_hashes_agree(store: LocalStorage, key: Key) -> None:
    """``stream_reader`` would return the part that is there, and no error."""
    frame = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(text(500_000))
    for end in (len(frame) - 1, len(frame) - 4, len(frame) // 2, 10, 3):
        kept = keep(store, frame[:end], key, level=None)
        with pytest.raises(Damaged):
            read(store, replace(kept, compressed=True), key)


def test_a_second_zstd_frame_is_damage(store: LocalStorage, key: Key) -> None:
    frame = zstandard.ZstdCompressor(level=3).compress(b"one")
    kept = keep(store, frame + frame, key, level=None)
    with pytest.raises(Damaged, match="zstd frame"):
        read(store, replace(kept, compressed=True), key)


def test_a_store_that_is_away_is_not_damage(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(250_000), key, level=None, part_bytes=100_000)
    fired = []

    def spoil(name: str, body: bytes) -> bytes:
        if name.endswith("part-00002.age"):
            fired.append(name)
            raise StorageUnavailable("503 from the store.")
        return body

    with pytest.raises(StorageUnavailable, match="503"):
        read(Hurt(store, open_reader=reader_that(store, spoil)), kept, key)
    assert len(fired) == 1


def test_a_reader_who_stops_early_leaves_no_thread(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(20_000_000), key, level=None)
    stream = open_stream(store, FOLDER, kept, key.identity)
    assert next(stream)
    assert stream_threads() != []
    stream.close()  # type: ignore[attr-defined]
    assert stream_threads() == []
    stream = open_stream(store, FOLDER, kept, key.identity)
    next(stream)
    del stream
    gc.collect()
    assert stream_threads() == []


def test_an_error_of_the_reader_comes_through(store: LocalStorage, key: Key) -> None:
    kept = keep(store, noise(20_000_000), key, level=None)

    def use() -> None:
        for _ in open_stream(store, FOLDER, kept, key.identity):
            raise RuntimeError("the consumer's own")

    with pytest.raises(RuntimeError, match="own"):
        use()
    gc.collect()


def test_blocks_come_in_sizes_that_fit_in_memory_however_well_they_compressed(store: LocalStorage, key: Key) -> None:
    size = 64 * 2**20
    stored, _ = store_stream(
        (bytes(2**20) for _ in range(64)), storage=store, folder=FOLDER, recipients=[key.public], level=3,
        finish=lambda: None,
    )  # fmt: skip
    assert stored.stored_bytes < 10_000
    sizes = [len(block) for block in open_stream(store, FOLDER, Kept.of(stored), key.identity)]
    assert sum(sizes) == size
    assert max(sizes) <= 4 * 2**20


@given(data=st.binary(max_size=400_000), level=st.sampled_from([1, 3]), most=st.integers(1, 9), seed=st.integers())
@settings(max_examples=60, deadline=None)
def test_cutting_a_frame_loses_nothing_and_bounds_what_comes_out(data: bytes, level: int, most: int, seed: int) -> None:
    data = data + bytes(2_000_000) if seed % 2 else data
    frame = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=bool(seed % 3)).compress(data)
    blocks, decompressor, picks = Blocks(most), zstandard.ZstdDecompressor().decompressobj(), random.Random(seed)
    out, at, pieces = [], 0, b""
    while at < len(frame):
        step = picks.choice([1, 2, 3, 100, 5_000, 1_000_000])
        for piece in blocks.feed(frame[at : at + step]):
            pieces += bytes(piece)
            out.append(decompressor.decompress(piece))
        at += step
    assert pieces == frame
    assert decompressor.eof
    assert b"".join(out) == data
    assert max(map(len, out), default=0) <= most * 128 * 1024
