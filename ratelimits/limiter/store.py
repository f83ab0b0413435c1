"""Connections to the store, and one script call on them. A call that failed is never sent twice.

Exceptions are redis-py's: ``redis.RedisError`` and its subclasses. Whatever a call raised, its connection is
closed: an answer that comes late must not be read as that of the next request.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, cast
from weakref import WeakKeyDictionary

import redis
import redis.asyncio as aredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from .script import Script

Argument = str | bytes | int

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
        self._mine = threading.local()

    def _connection(self) -> Any:
        connection = getattr(self._mine, "connection", None)
        if connection is None or self._mine.pid != os.getpid():
            connection = self._pool.make_connection()
            self._mine.connection, self._mine.pid = connection, os.getpid()
        return connection

    def call(self, script: Script, keys: list[str], args: list[Argument]) -> Any:
        """Run a script in one round trip; two where the server has forgotten it (restart, SCRIPT FLUSH)."""
        connection = self._connection()
        known = connection._sock is not None
        try:
            return self._send(connection, "EVALSHA", script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self._send(connection, "EVAL", script.text, len(keys), *keys, *args)
        except redis.exceptions.TimeoutError:
            raise
        except redis.exceptions.ConnectionError:
            if not known:
                raise
            # The server closed a connection that was idle (it was restarted, or has a time limit): a new one,
            # once. If the old server counted before it died, the request is counted twice: on the safe side.
            return self._send(connection, "EVAL", script.text, len(keys), *keys, *args)

    @staticmethod
    def _send(connection: Any, *command: Argument) -> Any:
        connection.send_packed_command(connection.pack_command(*command))
        return connection.read_response()

    def close(self) -> None:
        """Close the calling thread's connection."""
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.disconnect()


class AsyncStore:
    """One pool per event loop: a connection cannot move to another loop."""

    MOST_CONNECTIONS = 64

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url, self._timeout_seconds = url, timeout_seconds
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, aredis.Redis] = WeakKeyDictionary()

    def _client(self) -> aredis.Redis:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            pool = aredis.BlockingConnectionPool.from_url(
                self._url,
                max_connections=self.MOST_CONNECTIONS,
                timeout=self._timeout_seconds,
                retry=AsyncRetry(NoBackoff(), 0),
                **_options(self._timeout_seconds),
            )
            client = self._clients[loop] = aredis.Redis(connection_pool=pool)
        return client

    async def call(self, script: Script, keys: list[str], args: list[Argument]) -> Any:
        client = self._client()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    return await cast("Any", client.evalsha(script.sha, len(keys), *keys, *args))
                except redis.exceptions.NoScriptError:
                    return await cast("Any", client.eval(script.text, len(keys), *keys, *args))
        except TimeoutError as error:
            raise redis.exceptions.TimeoutError("the store did not answer in time") from error

    async def close(self) -> None:
        """Close this loop's connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose(close_connection_pool=True)
