"""Connections to the store, and one script call on them. A call that timed out is never sent twice.

Exceptions are redis-py's: ``redis.RedisError`` and its subclasses. Whatever a call raised, its connection is
closed: an answer that comes late must not be read as that of the next request.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio as aredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from .script import Script

Argument = str | bytes | int


class Call:
    """One run of a script, packed for the wire once: the same question is asked again and again."""

    __slots__ = ("_arguments", "_script", "by_digest")

    def __init__(self, script: Script, keys: list[str], args: list[Argument]) -> None:
        self._script, self._arguments = script, [len(keys), *keys, *args]
        self.by_digest = _pack("EVALSHA", script.sha, *self._arguments)

    def in_full(self) -> bytes:
        """With the script's text, for a server that has forgotten it."""
        return _pack("EVAL", self._script.text, *self._arguments)


def _pack(*parts: Argument) -> bytes:
    """A command in RESP2."""
    texts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)


#: Part of the time limit that connecting may take; the answer gets the rest.
CONNECT_SHARE = 0.4


def _options(timeout_seconds: float) -> dict[str, Any]:
    return {
        "socket_connect_timeout": timeout_seconds * CONNECT_SHARE,
        "socket_timeout": timeout_seconds * (1 - CONNECT_SHARE),
        # RESP2 and no client name: connecting costs no round trip of its own
        "protocol": 2,
        "driver_info": None,
        "health_check_interval": 0,
    }


class Store:
    """One connection per thread, without a pool's lock; forgotten after a fork."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._pool = redis.ConnectionPool.from_url(url, **_options(timeout_seconds), retry=Retry(NoBackoff(), 0))
        self._connect_seconds = timeout_seconds * CONNECT_SHARE
        self._at_once_seconds = timeout_seconds / 10
        self._mine = threading.local()

    def _connection(self) -> Any:
        connection = getattr(self._mine, "connection", None)
        if connection is None or self._mine.pid != os.getpid():
            connection = self._pool.make_connection()
            self._mine.connection, self._mine.pid = connection, os.getpid()
        return connection

    def run(self, call: Call) -> Any:
        """Run a script in one round trip; two where the server has forgotten it (restart, SCRIPT FLUSH)."""
        connection = self._connection()
        known = connection._sock is not None
        began = time.monotonic()
        try:
            return self._send(connection, call.by_digest)
        except redis.exceptions.NoScriptError:
            return self._send(connection, call.in_full())
        except redis.exceptions.TimeoutError:
            raise
        except redis.exceptions.ConnectionError:
            if not known or time.monotonic() - began > self._at_once_seconds:
                raise
            # The server closed a connection that was idle (it was restarted, or has a time limit): a new one,
            # once. If the old server counted before it died, the request is counted twice: on the safe side.
            return self._send(connection, call.in_full())

    def _send(self, connection: Any, packed: bytes) -> Any:
        if connection._sock is None:
            self._connect(connection)
        connection.send_packed_command([packed])
        return connection.read_response()

    def _connect(self, connection: Any) -> None:
        """Connect, waiting for room in the queue of a UNIX socket: where many threads connect at once the system
        answers EAGAIN at once instead of waiting, and that is no store that is away."""
        until, pause = time.monotonic() + self._connect_seconds, 0.0005
        while True:
            try:
                connection.connect()
                return
            except redis.exceptions.ConnectionError as error:
                if not isinstance(error.__context__, BlockingIOError) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 0.01)

    def close(self) -> None:
        """Close the calling thread's connection."""
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.disconnect()


class AsyncStore:
    """One connection per event loop, on which calls follow each other without waiting for their answers.

    Redis answers in the order of the questions. A pool of connections would queue its callers behind each
    other, and a burst of requests in one loop would then look like a store that is away.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        # answers have no time limit of their own on a connection that may idle: each call brings its own
        options = _options(timeout_seconds) | {"socket_timeout": None}
        self._pool: Any = aredis.ConnectionPool.from_url(url, **options, retry=AsyncRetry(NoBackoff(), 0))
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    async def run(self, call: Call) -> Any:
        """The same, waiting for its answer without holding up the loop."""
        loop = asyncio.get_running_loop()
        expires_at = loop.time() + self._timeout_seconds
        line = self._lines.get(loop)
        known = line is not None and line.alive
        if line is None or not line.alive:
            line = self._lines[loop] = _Line(self._pool.make_connection())
        try:
            return await line.ask(expires_at, call.by_digest)
        except redis.exceptions.NoScriptError:
            return await line.ask(expires_at, call.in_full())
        except redis.exceptions.TimeoutError:
            raise
        except redis.exceptions.ConnectionError:
            if not known:
                raise
            # as in Store.call: the server has closed the connection since it was last used
            if self._lines.get(loop) is line:
                self._lines[loop] = _Line(self._pool.make_connection())
            return await self._lines[loop].ask(expires_at, call.in_full())

    async def close(self) -> None:
        """Close this loop's connection."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.close()


class _Line:
    """A connection with the questions that are still unanswered, in their order."""

    def __init__(self, connection: Any) -> None:
        self.alive = True
        self._connection = connection
        self._unsent: list[bytes] | None = []  # until it is connected
        self._unanswered: deque[asyncio.Future[Any]] = deque()
        self._reader: asyncio.Task[None] | None = asyncio.create_task(self._read())

    async def ask(self, expires_at: float, packed: bytes) -> Any:
        """Send a command and wait for its answer until ``expires_at`` by the loop's clock."""
        if not self.alive:
            raise redis.exceptions.ConnectionError("the connection is closed")
        if self._unsent is None:
            self._connection._writer.write(packed)
        else:
            self._unsent.append(packed)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._unanswered.append(answer)
        # One turn of grace: where the loop itself was held up, the answer is here and merely not read yet.
        timer = loop.call_at(expires_at, loop.call_soon, self._expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        if self._reader is not None:
            reader = self._reader
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self) -> None:
        error: Exception = redis.exceptions.ConnectionError("the connection was closed")
        connection = self._connection
        try:
            await connection.connect()
            connection._writer.writelines(self._unsent)
            self._unsent = None
            while True:
                try:
                    answer = await connection.read_response()
                except redis.exceptions.ResponseError as refusal:
                    self._settle(self._unanswered.popleft(), error=refusal)
                else:
                    self._settle(self._unanswered.popleft(), answer)
        except IndexError:
            error = redis.exceptions.InvalidResponse("an answer to no question")
        except (redis.RedisError, OSError) as failure:
            error = failure
        finally:
            self._end(error)
            await connection.disconnect(nowait=True)

    def _expire(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done() and self._reader is not None:
            self._reader.cancel()
            self._end(redis.exceptions.TimeoutError("the store did not answer in time"))

    def _end(self, error: Exception) -> None:
        """Nothing is sent here any more, and whoever still waits learns why."""
        self.alive = False
        self._reader = self._connection = None  # both would keep their loop, and this line with it, for ever
        while self._unanswered:
            self._settle(self._unanswered.popleft(), error=error)

    @staticmethod
    def _settle(future: asyncio.Future[Any], answer: Any = None, *, error: Exception | None = None) -> None:
        if future.done():
            return  # its caller has gone
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)
