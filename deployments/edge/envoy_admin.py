"""Questions to Envoy's admin interface, over its UNIX socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from deployments.errors import EdgeUnavailable

ANSWER_SECONDS = 2.0


class _SocketConnection(http.client.HTTPConnection):
    """HTTP to a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class Admin:
    """One Envoy's admin interface. Every call is one connection; nothing is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_ready(self) -> bool:
        try:
            return self._get("/ready")[0] == 200
        except EdgeUnavailable:
            return False

    def json(self, path: str, **query: str) -> Any:
        """The parsed answer; EdgeUnavailable where there is none that can be read."""
        status, body = self._get(f"{path}?{urlencode(query)}" if query else path)
        return _parsed(path, status, body)

    def dump(self, resource: str, **query: str) -> list[Any]:
        """Envoy's configurations of that kind; EdgeUnavailable. It answers 404 where it has none."""
        status, body = self._get(f"/config_dump?{urlencode({'resource': resource, **query})}")
        return [] if status == 404 else list(_parsed("/config_dump", status, body).get("configs", ()))

    def _get(self, target: str) -> tuple[int, bytes]:
        connection = _SocketConnection(self.path)
        try:
            connection.request("GET", target, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EdgeUnavailable(
                f"Envoy does not answer on {self.path} ({type(error).__name__}).",
                remedy="Start it (`make run` does), or set ZANTARA_EDGE_ADMIN_SOCKET to its admin socket.",
            ) from None
        finally:
            connection.close()


def _parsed(path: str, status: int, body: bytes) -> Any:
    if status != 200:
        raise EdgeUnavailable(f"Envoy's admin interface answered {status} to {path}.")
    try:
        return json.loads(body)
    except ValueError:
        raise EdgeUnavailable(f"Envoy's admin interface gave half an answer to {path}.") from None
