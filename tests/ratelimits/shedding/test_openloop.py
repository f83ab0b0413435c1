"""The load generator of the benchmark: it must neither wait for answers nor lose any."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.openloop import Kind, drive, http_get
from tests.stopwatch import Stopwatch

FINE, SHED = b"HTTP/1.1 200 OK\r\n\r\nfine", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


@contextmanager
def server(answer: Callable[[bytes], bytes] | None) -> Iterator[int]:
    """A port on which each request gets this answer; None: connections are taken and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    if answer is not None:
                        connection.sendall(answer(connection.recv(4096)))

        thread = threading.Thread(target=serve, daemon=True)
        if answer is not None:
            thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
    if answer is not None:
        thread.join(5)


def test_answers_are_counted_by_kind_and_status() -> None:
    kinds = [Kind("one", 0.5, http_get("/one")), Kind("two", 0.5, http_get("/two"))]
    with server(lambda request: FINE if request.startswith(b"GET /one ") else SHED) as port:
        outcome = drive(port, kinds, 100, 1, timeout_seconds=30)
    assert 60 < outcome.sent.total() < 140
    assert outcome.good == {"one": outcome.sent["one"]}
    assert outcome.shed == {"two": outcome.sent["two"]}
    assert outcome.failed.total() == 0
    assert len(outcome.times) == outcome.sent.total()
    assert (outcome.success("one"), outcome.success("two")) == (1.0, 0.0)


def test_requests_leave_on_time_although_none_is_ever_answered() -> None:
    with server(None) as port, Stopwatch() as watch:
        outcome = drive(port, [Kind("one", 1, http_get("/"))], 200, 1, timeout_seconds=0.3)
    stalled = watch.stalled_seconds
    assert outcome.failed.total() == outcome.sent.total() > 140
    assert all(0.3 <= took < 0.6 + stalled for _, _, _, took in outcome.times)
    assert outcome.late_seconds < 0.2 + stalled


def test_an_answer_that_breaks_off_or_is_no_http_has_failed() -> None:
    with server(lambda request: b"HTTP") as port:
        outcome = drive(port, [Kind("one", 1, http_get("/"))], 50, 0.5)
    assert outcome.failed.total() == outcome.sent.total() > 0


def test_a_port_where_nobody_listens_fails_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with Stopwatch() as watch:
        outcome = drive(port, [Kind("one", 1, http_get("/"))], 50, 0.5)
    assert outcome.failed.total() == outcome.sent.total() > 0
    assert all(took < 0.5 + watch.stalled_seconds for _, _, _, took in outcome.times)
