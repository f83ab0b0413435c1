"""Where Redis is: URLs for redis-py and for Celery, and the socket of the embedded one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

#: ``sockaddr_un.sun_path`` holds 108 bytes with its terminator (unix(7)).
LONGEST_SOCKET_PATH = 107


def socket_path(data_dir: Path) -> Path:
    """The embedded Redis's socket: in the data directory, or under the system's temporary directory
    where the data directory's path is too long for a socket. The same for every process of one user.
    """
    path = data_dir / "run" / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"zantara-{os.getuid()}-{digest}" / "redis.sock"


def default_redis_url(data_dir: Path) -> str:
    return f"unix://{quote(os.fspath(socket_path(data_dir)))}?db=0"


def broker_url(redis_url: str) -> str:
    """The same server in Celery's spelling: a UNIX socket is ``redis+socket://`` there."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    credentials = f"{parts.netloc}" if parts.netloc else ""
    return f"redis+socket://{credentials}{parts.path}?virtual_host={database}"
