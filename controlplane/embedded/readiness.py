"""Whether a child can do its work: short questions that the supervisor asks until all have said yes once."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis

Ready = Callable[[], bool]

#: A supervisor that waits for an answer does nothing else meanwhile.
ANSWER_SECONDS = 1.0


def http_ok(port: int, path: str) -> Ready:
    """GET on 127.0.0.1 answers 200."""
    return partial(_http_ok, port, path)


def _http_ok(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def redis_pong(url: str) -> Ready:
    """The server answers PING (and is not loading its data any more)."""
    return partial(_redis_pong, url)


def _redis_pong(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def file_exists(path: Path) -> Ready:
    """The child has written its file."""
    return path.exists
