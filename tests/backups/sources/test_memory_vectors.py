"""Exports that end too early, lie or break off are no captures; what is replaced can be put back."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backups.errors import CaptureFailed, Damaged
from backups.sources.base import Place
from backups.sources.memory_vectors import MemoryVectorsSource
from backups.sources.vectors_http import read
from controlplane.identity.tokens import verify
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable
from tests.zantara.conftest import TECH_LEAD, Running

from .taking import pieces, said, taken

GOOD = b'{"id":"a","embedding":[1.5,2]}\n{"id":"b","embedding":[0.1,3]}\n{"end":{"records":2}}\n'


@dataclass
class Foreign:
    """A service of somebody else: it sends what it is told to, and keeps what it is sent."""

    url: str = ""
    body: bytes = GOOD
    status: int = 200
    announce: int | None = None
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    came: list[bytes] = field(default_factory=list)
    import_answer: bytes = b'{"ok":true}'
    import_status: int = 200
    hold: threading.Event | None = None


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    service = Foreign()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.asked.append(self.path)
            service.tokens.append(self.headers.get("Authorization", ""))
            self.send_response(service.status)
            length = len(service.body) if service.announce is None else service.announce
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(service.body)
            self.wfile.flush()
            if service.hold is not None:
                service.hold.wait(30)

        def do_POST(self) -> None:
            service.asked.append(self.path)
            service.came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(service.import_status)
            self.send_header("Content-Length", str(len(service.import_answer)))
            self.end_headers()
            self.wfile.write(service.import_answer)
            if service.import_status == 200:
                service.body = service.came[-1]

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}/vectors/export"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield service
    if service.hold is not None:
        service.hold.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


def source_of(service: Foreign, *, token: str = "", **settings: Any) -> MemoryVectorsSource:
    secrets = {"token": token} if token else {}
    cleaned = MemoryVectorsSource.clean({"url": service.url, **settings}, secrets)
    return MemoryVectorsSource("memory", cleaned, secrets)


def test_the_lines_are_kept_as_they_came(foreign: Foreign, tmp_path: Path) -> None:
    source = source_of(foreign, token="t0ken")
    data, expectations = taken(source, tmp_path)
    assert data == GOOD
    assert (expectations["count"], sorted(expectations["records"])) == (2, ["a", "b"])
    assert foreign.asked == ["/vectors/export?end=count"]
    assert foreign.tokens == ["Bearer t0ken"]
    assert said(source.inspect(pieces(data, 7), expectations)) == ""
    assert said(source.drill(pieces(data), expectations, Place(tmp_path, "x"))) == ""


def test_a_token_can_be_issued_for_a_role(foreign: Foreign, tmp_path: Path) -> None:
    taken(source_of(foreign, issue_token_for_role=TECH_LEAD), tmp_path)
    claims = verify(foreign.tokens[0].removeprefix("Bearer "))
    assert claims.roles == (TECH_LEAD,)
    assert (claims.expires_at - claims.issued_at).total_seconds() <= 900


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no line with the number of its records"),
        (b'{"id":"a"}\n', "no line with the number of its records"),
        (b'{"id":"a"}\n{"end":{"records":2}}\n', "says that it sent .*2.*, and 1 records came"),
        (b'{"id":"a"}\n{"error":"This export is incomplete. Redis"}\n', "broke off: This export is incomplete. Redis"),
        (b'{"id":"a"}\n{"id":"a"}\n{"end":{"records":2}}\n', "Line 2: its id comes twice"),
        (b'{"text":"a"}\n', "Line 1: its id is missing"),
        (b'{"id":"a"}\n{"end":{"records":1}}\n{"id":"b"}\n', "Line 3 comes after the end"),
        (b"<html>sign in</html>\n", "Line 1 is not a JSON object"),
        (b'{"id":"a"}\n{"end":{"records":1}}', "ends in the middle of a line"),
    ],
)
def test_an_export_that_is_not_whole_is_no_capture(foreign: Foreign, tmp_path: Path, body: bytes, why: str) -> None:
    foreign.body = body
    with pytest.raises(CaptureFailed, match=why):
        taken(source_of(foreign), tmp_path)
    with pytest.raises(Damaged, match=why):
        read(iter([body]), needs_end=True)
    assert said(source_of(foreign).check())


def test_without_a_count_only_the_transfers_own_end_counts(foreign: Foreign, tmp_path: Path) -> None:
    foreign.body = b'{"id":"a"}\n'
    data, expectations = taken(source_of(foreign, ends_with_count=False), tmp_path)
    assert (data, expectations["count"]) == (foreign.body, 1)
    assert foreign.asked == ["/vectors/export"]
    foreign.announce = 5000
    with pytest.raises(CaptureFailed, match="broke off"):
        taken(source_of(foreign, ends_with_count=False), tmp_path)


def test_a_refused_export_says_the_status(foreign: Foreign, tmp_path: Path) -> None:
    foreign.status, foreign.body = 403, b'{"detail":"The role default may not"}'
    with pytest.raises(Unavailable, match=r"answered 403.*may not.*token"):
        taken(source_of(foreign), tmp_path)
    assert "answered 403" in said(source_of(foreign).restorer(Place(tmp_path, "x")).preflight(1))


def test_an_export_that_hangs_can_be_interrupted(foreign: Foreign, tmp_path: Path) -> None:
    foreign.hold, foreign.announce = threading.Event(), 5000
    with source_of(foreign).capture(now=clock.now(), scratch=tmp_path) as capture:
        threading.Timer(0.3, capture.interrupt).start()
        began = clock.monotonic()
        with pytest.raises(CaptureFailed, match="was stopped before"):
            for _ in capture.chunks():
                pass
    assert 0.2 < clock.monotonic() - began < 5


def test_a_swap_replaces_and_an_undo_puts_back_what_was_there_right_before(foreign: Foreign, tmp_path: Path) -> None:
    source = source_of(foreign)
    data, expectations = taken(source, tmp_path)
    foreign.body = b'{"id":"c"}\n{"end":{"records":1}}\n'
    before = foreign.body
    restorer = source.restorer(Place(tmp_path, "x"))
    restorer.prepare(pieces(data))
    assert said(restorer.validate(expectations)) == ""
    assert foreign.came == []
    restorer.swap()
    assert foreign.came == [GOOD]
    assert foreign.asked[-1] == "/vectors/import?mode=replace"
    again = source.restorer(Place(tmp_path, "x"))
    again.memory = restorer.memory
    again.swap()
    again.undo()
    again.undo()
    assert foreign.came == [GOOD, GOOD, before]
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_import_that_is_refused_or_took_less_fails_the_swap(foreign: Foreign, tmp_path: Path) -> None:
    source = source_of(foreign)
    data, _ = taken(source, tmp_path)
    restorer = source.restorer(Place(tmp_path, "x"))
    restorer.prepare(pieces(data))
    foreign.import_status, foreign.import_answer = 400, b'{"detail":"Line 1: wrong"}'
    with pytest.raises(Unavailable, match=r"answered 400.*Line 1: wrong"):
        restorer.swap()
    foreign.import_status, foreign.import_answer = 200, b'{"ok":true,"imported":1}'
    with pytest.raises(Unavailable, match="imported 1 of 2"):
        restorer.swap()


def test_nothing_damaged_is_ever_imported(foreign: Foreign, tmp_path: Path) -> None:
    source = source_of(foreign)
    restorer = source.restorer(Place(tmp_path, "x"))
    with pytest.raises(Damaged):
        restorer.prepare(pieces(GOOD[:-5]))
    restorer.discard()
    assert list(tmp_path.iterdir()) == []
    assert foreign.came == []


@pytest.mark.parametrize(
    ("settings", "secrets", "why"),
    [
        ({"url": "ftp://x/export"}, {}, "http://host:port"),
        ({"url": "http://x/dump"}, {}, "takes vectors back"),
        ({"url": "http://x/export", "issue_token_for_role": "r"}, {"token": "t"}, "Keep one of the two"),
        ({"url": "http://x/export", "drill_with": "hope"}, {}, "records or sample"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], secrets: dict[str, str], why: str) -> None:
    with pytest.raises(Refused, match=why):
        MemoryVectorsSource.clean(settings, secrets)


def test_the_import_url_is_made_of_the_exports() -> None:
    for url, expected in (
        ("http://x/vectors/export", "http://x/vectors/import?mode=replace"),
        ("http://x/export?space=a", "http://x/import?space=a&mode=replace"),
    ):
        assert MemoryVectorsSource.clean({"url": url}, {})["import_url"] == expected


Bearer = Callable[..., dict[str, str]]


def test_the_samples_drill_goes_through_its_own_store(sample_service: Running, tmp_path: Path) -> None:
    """A record that the comparison of lines would pass, but that the service would not take, fails."""
    settings = {"url": f"{sample_service.url}/vectors/export", "issue_token_for_role": TECH_LEAD}
    whole = MemoryVectorsSource.clean({**settings, "drill_with": "sample"}, {})
    source = MemoryVectorsSource("memory", whole, {})
    data, expectations = taken(source, tmp_path)
    assert json.loads(data) == {"end": {"records": 0}}
    assert said(source.drill(pieces(data), expectations, Place(tmp_path, "x"))) == ""
    stranger = b'{"id":"a","text":"words","embedding":[1,2]}\n{"end":{"records":1}}\n'
    of_stranger = read(iter([stranger]), needs_end=True).as_json()
    assert said(source.inspect(pieces(stranger), of_stranger)) == ""
    findings = said(source.drill(pieces(stranger), of_stranger, Place(tmp_path, "x")))
    assert "does not take these records: Line 1: embedding must be a list of 384 numbers" in findings
