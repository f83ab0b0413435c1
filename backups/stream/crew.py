"""Threads joined by bounded queues, of which either all end well or all end at the first error."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .base import BLOCK_BYTES, QUEUE_BLOCKS


class Aborted(Exception):
    """Another thread of the crew failed; its error is the one that is told."""


class Channel:
    """A queue of byte blocks between two threads of a crew. Both ends wake with Aborted when the crew fails."""

    def __init__(self, crew: Crew, depth: int = QUEUE_BLOCKS) -> None:
        self._crew, self._depth = crew, depth
        self._blocks: deque[bytes] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, block: bytes) -> None:
        with self._changed:
            while len(self._blocks) >= self._depth and not self._crew.failed:
                self._changed.wait()
            self._crew.check()
            self._blocks.append(block)
            self._changed.notify_all()

    def close(self) -> None:
        """No more blocks will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self) -> bytes | None:
        """The next block; None after the last."""
        with self._changed:
            while not self._blocks and not self._closed and not self._crew.failed:
                self._changed.wait()
            self._crew.check()
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            self._changed.notify_all()
            return block

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while (block := self.get()) is not None:
            yield block


class Crew:
    """The threads of one stream. The first error stops all of them; ``join`` waits until none is left."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: list[threading.Thread] = []
        self._channels: list[Channel] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.error: BaseException | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None

    def channel(self, depth: int = QUEUE_BLOCKS) -> Channel:
        channel = Channel(self, depth)
        self._channels.append(channel)
        return channel

    def spawn(self, step: Callable[..., object], *args: Any) -> None:
        def run() -> None:
            try:
                step(*args)
            except Aborted:
                pass
            except BaseException as error:  # noqa: BLE001  (told by the thread that owns the crew)
                self.fail(error)

        name = f"{self._name}-{getattr(step, '__name__', 'step').strip('_')}"
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def fail(self, error: BaseException) -> None:
        """Stop everybody; of several errors the first counts."""
        with self._lock:
            if self.error is None:
                self.error = error
        self._ended.set()
        for channel in self._channels:
            channel.wake()

    def end(self) -> None:
        """All is done: ``wait_end`` returns."""
        self._ended.set()

    def wait_end(self, seconds: float) -> bool:
        """Whether all is done or an error happened, within so many seconds."""
        return self._ended.wait(seconds)

    def check(self) -> None:
        if self.failed:
            raise Aborted

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


class ChannelReader(io.RawIOBase):
    """A channel as a file that is read. Wrap it in ``buffered`` for readers of small pieces."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._block = memoryview(b"")
        self.total_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            block = self._channel.get()
            if block is None:
                return 0
            self._block = memoryview(block)
        size = min(len(buffer), len(self._block))
        buffer[:size] = self._block[:size]
        self._block = self._block[size:]
        self.total_bytes += size
        return size

    def buffered(self) -> io.BufferedReader:
        """age reads 8 KiB at a time: those calls shall not run Python."""
        return io.BufferedReader(self, BLOCK_BYTES)


class ChannelWriter:
    """A channel as a file that is written to; small pieces become blocks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pieces: list[bytes] = []
        self._held = 0
        self.total_bytes = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self._held += len(data)
        if self._held >= BLOCK_BYTES:
            self.pass_on()
        return len(data)

    def flush(self) -> None:
        """Nothing: blocks are passed on when they are full, or by ``close``."""

    def pass_on(self) -> None:
        if self._held:
            block = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces, self._held = [], 0
            self.total_bytes += len(block)
            self._channel.put(block)

    def close(self) -> None:
        self.pass_on()
        self._channel.close()
