"""A proxy in front of an S3 server that spoils chosen requests, and knows whether it did."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection", "expect"}


@dataclass(frozen=True)
class Asked:
    """One request, named as S3's documentation names it."""

    operation: str
    key: str
    part: int | None
    range_from: int


def _asked(method: str, path: str, range_header: str) -> Asked:
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = parts.path.lstrip("/").partition("/")
    del bucket
    part = int(query["partNumber"][0]) if "partNumber" in query else None
    if "uploadId" in query:
        names = {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }
        operation = names[method]
    elif "uploads" in query:
        operation = "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    elif method == "POST" and "delete" in query:
        operation = "DeleteObjects"
    elif not key:
        operation = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket"}.get(method, method)
    else:
        operation = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[method]
    start = re.match(r"bytes=(\d+)-", range_header)
    return Asked(operation, key, part, int(start[1]) if start else 0)


@dataclass
class Fault:
    """What happens to the next ``times`` requests that ``applies`` to. Exactly one of the acts is set."""

    applies: Callable[[Asked], bool]
    #: Answer this status (and S3 error code) without asking the server.
    status: int = 0
    code: str = "InternalError"
    #: Close with a reset: before the request's body is read, or after the server did what it was asked.
    reset: bool = False
    lose_answer: bool = False
    #: Wait so long before the request is passed on.
    slow_seconds: float = 0.0
    #: Pass on only so many bytes of the answer's body, then close.
    cut_after: int = -1
    #: Answer 200 with an error in the body; ``after`` the server did it, or instead.
    error_in_200: bool = False
    after: bool = False
    times: int = 1
    fired: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def takes(self, asked: Asked) -> bool:
        with self._lock:
            if self.fired >= self.times or not self.applies(asked):
                return False
            self.fired += 1
            return True


class FaultProxy:
    """``url`` is asked instead of the server's. ``asked``: every request that came, in order."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def on(
        self, operation: str, *, part: int | None = None, key: str = "", where: Callable[[Asked], bool] | None = None,
        **act: object,
    ) -> Fault:  # fmt: skip
        """Spoil requests of this operation (of this part, of keys that hold this text)."""

        def applies(asked: Asked) -> bool:
            return (
                asked.operation == operation
                and (part is None or asked.part == part)
                and key in asked.key
                and (where is None or where(asked))
            )

        fault = Fault(applies, **act)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def assert_all_fired(self) -> None:
        assert self.faults, "no fault was set"
        tame = [(number, fault.fired, fault.times) for number, fault in enumerate(self.faults) if not fault.fired]
        assert not tame, f"faults that never fired (number, fired, times): {tame}"

    def count(self, operation: str) -> int:
        return sum(asked.operation == operation for asked in self.asked)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy for one test. The test itself asserts that its faults fired."""
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        asked = _asked(self.command, self.path, self.headers.get("Range", ""))
        self.proxy.asked.append(asked)
        fault = next((fault for fault in list(self.proxy.faults) if fault.takes(asked)), None)
        if fault is not None and fault.reset:
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault is not None and fault.slow_seconds:
            time.sleep(fault.slow_seconds)
        if fault is not None and fault.status:
            self._say(fault.status, _error(fault.code) if fault.status >= 400 else b"")
            return
        if fault is not None and fault.error_in_200 and not fault.after:
            self._say(200, _error("InternalError"))
            return
        self._pass_on(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        upstream = self.proxy.upstream
        connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault is not None and fault.lose_answer:
            self._reset()
            return
        if fault is not None and fault.error_in_200:
            self._say(200, _error("InternalError"))
            return
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut_after >= 0:
            self.wfile.write(content[: fault.cut_after])
            self.close_connection = True  # in order: a reset would throw away what the client has not read yet
            return
        self.wfile.write(content)

    def _say(self, status: int, content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _error(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>spoiled</Message></Error>'.encode()
    )
