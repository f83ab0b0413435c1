from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from controlplane.kernel.errors import ConfigurationError
from controlplane.samples.checks import check_services
from controlplane.samples.sources import DEADLINE_SECONDS, Source, parse_sources, scrape_all, sources
from tests.stopwatch import Stopwatch

EXPOSITION = b"# TYPE zantara_active_connections gauge\nzantara_active_connections 7\n# TYPE other gauge\nother 1\n"


@contextmanager
def service(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def say(content: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def test_services_are_names_with_addresses() -> None:
    assert parse_sources(["a=http://h:1", "b = https://h/prefix/metrics?x=1", "c=http://h/"]) == (
        Source("a", "http://h:1/metrics"),
        Source("b", "https://h/prefix/metrics?x=1"),
        Source("c", "http://h/metrics"),
    )


def test_by_default_the_control_plane_and_the_sample_are_sampled_on_this_machine() -> None:
    assert sources() == (
        Source("control-plane", "http://127.0.0.1:8000/metrics"),
        Source("sample", "http://127.0.0.1:3000/metrics"),
    )


@pytest.mark.parametrize(
    "lines",
    [["http://h:1"], ["=http://h"], ["a=ftp://h"], ["a=h:1"], ["a=http://"], ["a b=http://h"],
     ["a=http://u:hunter2@h"], ["a=http://h:1", "a=http://h:2"]],
)  # fmt: skip
def test_what_cannot_be_sampled_is_refused_and_the_check_says_so_without_a_secret(
    lines: list[str], settings: Any
) -> None:
    with pytest.raises(ConfigurationError):
        parse_sources(lines)
    settings.ZANTARA_SERVICES = lines
    found = list(check_services(None))
    assert [finding.id for finding in found] == ["zantara.E401"]
    assert "hunter2" not in f"{found[0].msg} {found[0].hint}"


def test_a_scrape_reads_what_is_sampled_and_brings_the_token(settings: Any) -> None:
    seen: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Authorization"])
        say(EXPOSITION)(request)

    settings.ZANTARA_METRICS_TOKEN = "t" * 32
    with service(answer) as url:
        (scrape,) = scrape_all([Source("a", url)])
    assert scrape.scrape is not None
    assert list(scrape.scrape.series) == ["zantara_active_connections"]
    assert seen == ["Bearer " + "t" * 32]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (say(b"no", 403), "It answered 403 instead of its metrics."),
        (say(b"", 302, Location="http://127.0.0.1:1/elsewhere"), "It answered 302 instead of its metrics."),
        (say(b"zantara_requests_total nothing\n"), "This is no Prometheus exposition (ValueError)."),
    ],
)
def test_an_answer_that_is_none_says_why(answer: Callable[[BaseHTTPRequestHandler], None], why: str) -> None:
    with service(answer) as url:
        (scrape,) = scrape_all([Source("a", url)])
    assert (scrape.scrape, scrape.why) == (None, why)


def test_services_that_hang_drip_or_are_away_cost_one_deadline_together(free_port: Callable[[], int]) -> None:
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not over.wait(0.2):
            try:
                request.wfile.write(b"# \n")
            except OSError:
                return

    with service(drip) as dripping, service(say(EXPOSITION)) as fine, socket.create_server(("127.0.0.1", 0)) as mute:
        asked = [
            Source("dripping", dripping),
            Source("mute", f"http://127.0.0.1:{mute.getsockname()[1]}/metrics"),
            Source("away", f"http://127.0.0.1:{free_port()}/metrics"),
            Source("fine", fine),
        ]
        begun = time.monotonic()
        with Stopwatch() as watch:
            found = scrape_all(asked)
        taken = time.monotonic() - begun
        over.set()
    assert [scrape.scrape is not None for scrape in found] == [False, False, False, True]
    assert [scrape.why for scrape in found] == ["did not answer within 2 s"] * 2 + ["ConnectError", ""]
    assert taken >= DEADLINE_SECONDS
    assert watch.seconds < DEADLINE_SECONDS + 2


def test_an_endless_exposition_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.samples.sources.LARGEST_BYTES", 1000)
    with service(say(b"# x\n" * 1000)) as url:
        (scrape,) = scrape_all([Source("a", url)])
    assert scrape.why == "Its metrics are larger than 1000 bytes."


def test_nobody_to_ask_is_no_scrape() -> None:
    assert scrape_all([]) == []
