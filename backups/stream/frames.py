"""Cuts a zstd frame at the boundaries of its blocks, so that no piece expands to more than a known size.

``decompressobj`` returns all that its input gives at once, and 1 MiB of a well compressed stream may be gigabytes.
A block never expands to more than 128 KiB (RFC 8878, 3.1.1.2.4).
"""

from __future__ import annotations

from collections.abc import Iterator

from backups.errors import Damaged

_MAGIC = b"\x28\xb5\x2f\xfd"
_RLE = 1


class Blocks:
    """Pieces of at most ``most`` complete blocks each. It only cuts: what the bytes mean zstd decides."""

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._head = bytearray()  # of the frame or of a block, while it is incomplete
        self._wanted = 5
        self._step = self._frame_start
        self._skip = 0  # bytes of the present block that are still to come
        self._last = False

    def feed(self, data: bytes) -> Iterator[memoryview]:
        view = memoryview(data)
        begin = at = 0
        complete = 0
        while at < len(view) and not (self._last and not self._skip):
            if self._skip:
                step = min(self._skip, len(view) - at)
                self._skip -= step
                at += step
                if not self._skip:
                    complete += 1
                    if complete == self._most:
                        yield view[begin:at]
                        begin, complete = at, 0
                continue
            step = min(self._wanted - len(self._head), len(view) - at)
            self._head += view[at : at + step]
            at += step
            if len(self._head) == self._wanted:
                self._step()
        if begin < len(view):
            yield view[begin:]

    def _frame_start(self) -> None:
        """Magic number and descriptor, which says how long the rest of the header is."""
        if self._head[:4] != _MAGIC:
            raise Damaged("What was decrypted is not a zstd stream.")
        descriptor = self._head[4]
        single = descriptor >> 5 & 1
        size_bytes = (single, 2, 4, 8)[descriptor >> 6]
        self._wanted = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + size_bytes
        self._step = self._frame_end
        if self._wanted == 5:
            self._frame_end()

    def _frame_end(self) -> None:
        self._head.clear()
        self._wanted, self._step = 3, self._block

    def _block(self) -> None:
        header = int.from_bytes(self._head, "little")
        self._head.clear()
        self._last = bool(header & 1)
        self._skip = 1 if header >> 1 & 3 == _RLE else header >> 3
