"""A record that is deleted while Chroma reads it makes Chroma answer 500: asked again, it gives the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from backups.errors import CaptureFailed
from backups.sources.chroma_client import LOST_RECORD_WAITS, Server
from controlplane.kernel import clock
from tests.backups.servers.chroma import make, put, source_of

ANSWER = b'{"error":"InternalError","message":"Error executing plan: Internal error: Error finding id"}'


@contextmanager
def spoiling(server: Server, times: int) -> Iterator[tuple[Server, list[str]]]:
    """The server behind a proxy that spoils so many readings of records, and what it spoilt."""
    spoilt: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.endswith("/get") and len(spoilt) < times:
                spoilt.append(self.path)
                status, content = 500, ANSWER
            else:
                headers = {"Content-Type": "application/json"} if body else {}
                answer = httpx2.request(self.command, server.url + self.path, content=body or None, headers=headers)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = forward

        def log_message(self, *_: object) -> None: ...

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield replace(server, url=f"http://127.0.0.1:{proxy.server_port}"), spoilt
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def test_a_reading_that_a_deletion_spoilt_is_repeated_and_nothing_is_lost(
    chroma_server: Server, tmp_path: Path
) -> None:
    put(chroma_server, make(chroma_server, "busy"), [f"id{n}" for n in range(50)])
    with (
        spoiling(chroma_server, 3) as (server, spoilt),
        source_of(server).capture(now=clock.now(), scratch=tmp_path) as capture,
    ):
        exported = b"".join(capture.chunks())
        captured = capture.finish()
    assert len(spoilt) == 3
    assert exported.count(b'"embedding":') == 50
    assert captured.summary["records"] == 50


def test_a_server_that_never_finds_the_record_again_fails_the_capture(chroma_server: Server, tmp_path: Path) -> None:
    put(chroma_server, make(chroma_server, "broken"), ["a"])
    with (
        spoiling(chroma_server, 1000) as (server, spoilt),
        source_of(server).capture(now=clock.now(), scratch=tmp_path) as capture,
        pytest.raises(CaptureFailed, match="Error finding id"),
    ):
        b"".join(capture.chunks())
    assert len(spoilt) == len(LOST_RECORD_WAITS) + 1
