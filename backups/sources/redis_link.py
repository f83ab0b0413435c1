"""To a Redis server: connections to its logical databases, and its snapshot as a replica would get it.

The snapshot comes over the connection, so no file system is shared with the server, over TCP, TLS and UNIX sockets
alike. We ask for it as an old replica would (without ``capa eof``): the server then begins at once, where a modern
replica waits for ``repl-diskless-sync-delay``, and says the size first. Only a server that cannot write a file is asked
for the diskless form, whose end is marked by 40 stray bytes that do not belong to the snapshot.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis
from django.conf import settings as django_settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from backups.errors import CaptureFailed
from controlplane.kernel.errors import Refused, Unavailable

from .programs import CHUNK_BYTES

#: A transaction that exchanges databases must never be sent twice because its answer was lost.
NO_RETRY = Retry(NoBackoff(), 0)
#: While it prepares the snapshot a server sends an empty line every second.
SILENCE_SECONDS = 60.0
CONNECT_SECONDS = 5.0
#: A person waits for this answer.
LOOK_SECONDS = 5.0
_MARK_BYTES = 40
_LONGEST_LINE = 4096


def clean_url(value: object) -> str:
    """The URL as it may be shown; Refused where it is none, or holds a password."""
    url = str(value or "").strip()
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise Refused(
            "url is no Redis address.", remedy="Write redis://host:6379, rediss://… or unix:///path/redis.sock."
        )
    if parts.password or "password=" in parts.query:
        raise Refused("url holds a password, which everybody could read.", remedy="Write it into the field password.")
    return url


class Link:
    """``connect(database)`` gives a client; its connection is closed by its own ``close``."""

    def __init__(self, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        self.url = str(settings.get("url") or django_settings.ZANTARA_REDIS_URL)
        self._password = secrets.get("password", "")

    @property
    def database(self) -> int:
        """The logical database that the URL names."""
        return int(self._options().get("db") or 0)

    @property
    def place(self) -> str:
        """Where it is, without credentials."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def _options(self) -> dict[str, Any]:
        return dict(redis.ConnectionPool.from_url(self.url).connection_kwargs)

    def connect(self, database: int | None = None, *, patience_seconds: float = SILENCE_SECONDS) -> redis.Redis:
        pool = redis.ConnectionPool.from_url(
            self.url,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=patience_seconds,
            retry=NO_RETRY,
        )
        if database is not None:
            pool.connection_kwargs["db"] = database
        if self._password:
            pool.connection_kwargs["password"] = self._password
        return redis.Redis.from_pool(pool)

    def away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"Redis at {self.place} does not answer: {error}.",
            remedy="See that it runs, and that address and password hold.",
        )


class Snapshot:
    """One snapshot on its way. ``size`` is known with the disk-based form only."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._interrupted = False
        self._socket: sockets.socket | None = None
        self._client: redis.Redis | None = None

    def open(self) -> None:
        """Begin; Unavailable where the server is away, CaptureFailed where it says no."""
        try:
            self._rest, self._size, self._mark = self._begin(diskless=False)
        except CaptureFailed:
            self.close()
            self._rest, self._size, self._mark = self._begin(diskless=True)

    def _begin(self, *, diskless: bool) -> tuple[bytes, int | None, bytes]:
        try:
            self._client = self._link.connect()
            connection = self._client.connection_pool.get_connection()
            for option in [("rdb-only", "1")] if not diskless else [("rdb-only", "1"), ("capa", "eof")]:
                connection.send_command("REPLCONF", *option)  # type: ignore[no-untyped-call]
                with suppress(redis.ResponseError):  # servers before 7.0 know no rdb-only
                    connection.read_response()
            connection.send_command("SYNC")  # type: ignore[no-untyped-call]
            self._socket = connection._sock
        except redis.RedisError as error:
            raise self._link.away(error) from None
        return self._first_line()

    def _first_line(self) -> tuple[bytes, int | None, bytes]:
        held = b""
        while True:
            held = held.lstrip(b"\n")
            line, end, rest = held.partition(b"\r\n")
            if end:
                break
            if len(held) > _LONGEST_LINE:
                raise self._failed("it sent something else than a snapshot")
            held += self._receive()
        if line.startswith(b"$EOF:") and len(line) == 5 + _MARK_BYTES:
            return rest, None, line[5:]
        if line.startswith(b"$"):
            return rest, int(line[1:]), b""
        raise self._failed(line.decode("utf-8", "replace"))

    def _receive(self) -> bytes:
        assert self._socket is not None  # noqa: S101  (opened before)
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except OSError as error:
            raise self._failed(str(error) or "the connection broke") from None
        if not data or self._interrupted:
            raise self._failed("it was interrupted" if self._interrupted else "the server closed the connection")
        return data

    def _failed(self, why: str) -> CaptureFailed:
        return CaptureFailed(
            f"Redis at {self._link.place} gave no whole snapshot: {why}.",
            remedy="Its user needs the rights to SYNC and REPLCONF, and the server room to write a snapshot.",
        )

    def chunks(self) -> Iterator[bytes]:
        """The RDB file's bytes and nothing else; CaptureFailed where they end early."""
        for piece in self._pieces():
            if self._interrupted:
                raise self._failed("it was interrupted")
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        held, self._rest = self._rest, b""
        if self._size is not None:
            left = self._size
            while left:
                piece = held[:left] if held else self._receive()[:left]
                held = b""
                left -= len(piece)
                yield piece
            return
        while not held.endswith(self._mark):
            ready, held = held[:-_MARK_BYTES], held[-_MARK_BYTES:]
            if ready:
                yield ready[:CHUNK_BYTES]
                if len(ready) > CHUNK_BYTES:
                    yield ready[CHUNK_BYTES:]
            held += self._receive()
        if len(held) > _MARK_BYTES:
            yield held[:CHUNK_BYTES][: len(held) - _MARK_BYTES]
            if len(held) - _MARK_BYTES > CHUNK_BYTES:
                yield held[CHUNK_BYTES:-_MARK_BYTES]

    def end(self) -> None:
        """CaptureFailed where it was interrupted after its last byte."""
        self.close()
        if self._interrupted:
            raise self._failed("it was interrupted")

    def interrupt(self) -> None:
        self._interrupted = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        if self._client is not None:
            self._client.connection_pool.disconnect()
            self._client.close()
            self._client = None


Connect = Callable[[int], redis.Redis]


def used_databases(client: redis.Redis) -> list[int]:
    """The logical databases that hold keys."""
    keyspace: dict[str, Any] = client.info("keyspace")
    return sorted(int(name.removeprefix("db")) for name in keyspace)
