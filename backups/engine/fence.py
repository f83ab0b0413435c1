"""Holding on to a run, and writing nothing once it is somebody else's.

A thread renews the lease every ten seconds. Whoever wants to write asks first: when the last renewal is old (the
process was stopped, the machine slept), the answer is a new renewal or LeaseLost, never a guess.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO

import structlog
from django.db import DatabaseError, connection

from backups import metrics
from backups.storage.base import ObjectInfo, ObjectWriter, Space, Storage, Upload
from controlplane.kernel import clock
from controlplane.kernel.errors import LeaseLost
from controlplane.kernel.leases import Lease

log = structlog.get_logger(__name__)

LEASE_SECONDS, HEARTBEAT_SECONDS = 60.0, 10.0
#: A renewal older than this is no longer believed: two heartbeats and some air.
_BELIEVED_SECONDS = 22.0
_RETRY_SECONDS = 2.0


class Fence:
    """The lease of one run while it is worked on; a context manager.

    From its thread ``on_lost`` is called once the run is somebody else's, and ``on_beat`` after each renewal.
    """

    def __init__(self, lease: Lease, on_lost: Callable[[], object] = lambda: None) -> None:
        self.lease, self._on_lost = lease, on_lost
        self.on_beat: Callable[[], object] = lambda: None
        self._lost = threading.Event()
        self._asked, self._answered, self._over = threading.Event(), threading.Condition(), False
        self._renewed = (clock.monotonic(), clock.now())
        self._thread = threading.Thread(target=self._keep, name="backup-heartbeat", daemon=True)

    def __enter__(self) -> Fence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._asked.set()
        self._thread.join(HEARTBEAT_SECONDS)

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    def confirm(self) -> None:
        """Return if the run was ours within the last moments, else find out. LeaseLost if it is not, or cannot be
        known within the lease's time. Cheap enough for every block; from any thread.
        """
        if self._lost.is_set():
            raise self._gone()
        if self._is_believed():
            return
        with self._answered:
            self._asked.set()
            self._answered.wait_for(lambda: self._lost.is_set() or self._is_believed(), LEASE_SECONDS)
        if self._lost.is_set() or not self._is_believed():
            raise self._gone()

    def renew(self) -> None:
        """Renew now, on the caller's connection: what a commit demands. LeaseLost if the run is not ours."""
        try:
            self.lease.renew(clock.now())
        except LeaseLost:
            self._lose()
            raise
        self._renewed = (clock.monotonic(), clock.now())

    def _is_believed(self) -> bool:
        # Both clocks: the monotonic one stands still while a machine sleeps, the other may be set back.
        ticks, at = self._renewed
        slept = (clock.now() - at).total_seconds()
        return clock.monotonic() - ticks < _BELIEVED_SECONDS and slept < _BELIEVED_SECONDS

    def _gone(self) -> LeaseLost:
        return LeaseLost(
            f"Backup {self.lease.pk} is no longer leased to {self.lease.owner}.",
            remedy="Its new owner carries on; what this worker stored is taken back.",
        )

    def _keep(self) -> None:
        wait = HEARTBEAT_SECONDS
        try:
            while not self._over:
                self._asked.wait(wait)
                if self._over:
                    return
                self._asked.clear()
                wait = HEARTBEAT_SECONDS if self._beat() else _RETRY_SECONDS
                self._tell()
                if self._lost.is_set():
                    return
        finally:
            connection.close()

    def _tell(self) -> None:
        try:
            self.on_beat()
        except Exception:  # whatever it is, the heartbeat goes on
            log.exception("heartbeat_listener_broke", backup=self.lease.pk)

    def _beat(self) -> bool:
        try:
            self.lease.renew(clock.now())
            self._renewed = (clock.monotonic(), clock.now())
        except LeaseLost:
            self._lose()
            self._on_lost()
        except DatabaseError as error:
            log.warning("heartbeat_failed", backup=self.lease.pk, error=type(error).__name__)
            with suppress(DatabaseError):
                connection.close()
            return False
        with self._answered:
            self._answered.notify_all()
        return True

    def _lose(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            metrics.lease_lost.add()
            log.warning("lease_lost", backup=self.lease.pk, owner=self.lease.owner, token=self.lease.token)


class FencedStorage:
    """A store that writes only while the run is ours. Reading and deleting are not held back: taking back its own
    objects is the last thing that a worker which lost its run does.
    """

    def __init__(self, storage: Storage, confirm: Callable[[], None]) -> None:
        self._storage, self._confirm = storage, confirm

    @contextmanager
    def open_writer(self, key: str) -> Iterator[ObjectWriter]:
        self._confirm()
        with self._storage.open_writer(key) as writer:
            yield _FencedWriter(writer, self._confirm)

    def put(self, key: str, body: bytes) -> None:
        self._confirm()
        self._storage.put(key, body)

    def open_reader(self, key: str, *, start: int = 0) -> AbstractContextManager[BinaryIO]:
        return self._storage.open_reader(key, start=start)

    def get(self, key: str, *, most: int = 64 * 2**20) -> bytes:
        return self._storage.get(key, most=most)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._storage.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._storage.list(prefix)

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        return self._storage.delete(keys)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        return self._storage.uploads(prefix)

    def abort_upload(self, upload: Upload) -> None:
        self._storage.abort_upload(upload)

    def space(self) -> Space | None:
        return self._storage.space()

    def check(self) -> None:
        self._storage.check()


class _FencedWriter:
    def __init__(self, writer: ObjectWriter, confirm: Callable[[], None]) -> None:
        self._writer, self._confirm = writer, confirm

    def write(self, data: bytes | memoryview) -> None:
        self._confirm()
        self._writer.write(data)

    def complete(self) -> None:
        self._confirm()
        self._writer.complete()

    def abort(self) -> None:
        self._writer.abort()
