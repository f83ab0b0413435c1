"""Memory that all processes share, and the way out and in for all of it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from controlplane.kernel.errors import Refused
from examples.zantara import redis_store
from examples.zantara.embedding import embed
from examples.zantara.ndjson import from_lines, to_line
from examples.zantara.vectors import Record, VectorStore
from tests.stopwatch import Stopwatch
from tests.zantara.conftest import Running, serving
from tests.zantara.test_endpoints import problem

Bearer = Callable[..., dict[str, str]]


def body(*numbers: int, word: str = "text") -> bytes:
    texts = {number: f"{word} number {number}" for number in numbers}
    return b"".join(
        to_line(Record(f"r{number:05}", text, embed(text), {"n": number})) for number, text in texts.items()
    )


def exported(service: Running, headers: dict[str, str]) -> list[dict[str, Any]]:
    response = service.get("/vectors/export", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_what_one_process_learns_the_others_know(service: Running, other: Running) -> None:
    assert len(service.worker_pids) == 2
    added = service.run("memory.add", {"text": "the canary sings", "id": "c", "metadata": {"topic": "birds"}})
    assert added.json()["result"] == {"id": "c", "replaced": False}
    for running in [service] * 12 + [other]:
        (match,) = running.run("memory.search", {"text": "canary"}).json()["result"]["matches"]
        assert (match["id"], match["text"], match["metadata"]) == ("c", "the canary sings", {"topic": "birds"})
        assert 0 < match["score"] <= 1
    assert other.run("memory.delete", {"id": "c"}).json()["result"] == {"deleted": True}
    assert service.run("memory.search", {"text": "canary"}).json()["result"] == {"matches": []}


def test_an_id_is_made_when_none_is_given(service: Running) -> None:
    one, two = (service.run("memory.add", {"text": "x"}).json()["result"]["id"] for _ in range(2))
    assert one != two
    assert len(one) == 32


def test_a_vector_may_be_searched_for_directly(service: Running) -> None:
    for name in ("alpha", "omega"):
        service.run("memory.add", {"text": name, "id": name})
    found = service.run("memory.search", {"vector": embed("omega"), "k": 1}).json()["result"]["matches"]
    assert [match["id"] for match in found] == ["omega"]
    assert found[0]["score"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("method", "path"), [("GET", "/vectors/export"), ("POST", "/vectors/import")])
def test_all_vectors_at_once_are_for_the_tech_lead_only(
    service: Running, bearer: Bearer, method: str, path: str
) -> None:
    anonymous = service.request(method, path, content=body(1))
    assert "bearer token of the role AI Bridge/Tech Lead" in problem(anonymous, 401)
    assert anonymous.headers["www-authenticate"] == "Bearer"
    for role in ("CEO", "Setup Team Lead", "External", "Administrator"):
        assert "may not read or write" in problem(
            service.request(method, path, content=body(1), headers=bearer(role)), 403
        )
    assert exported(service, bearer()) == []


def test_an_export_says_at_its_end_how_many_there_were_if_it_is_asked(service: Running, bearer: Bearer) -> None:
    service.request("POST", "/vectors/import", content=body(3, 1), headers=bearer())
    whole = service.get("/vectors/export?end=count", headers=bearer()).content
    *records, end = whole.splitlines()
    assert [json.loads(line)["id"] for line in records] == ["r00001", "r00003"]
    assert json.loads(end) == {"end": {"records": 2}}
    answer = service.request("POST", "/vectors/import?mode=replace", content=whole, headers=bearer())
    assert answer.json()["imported"] == 2
    cut = whole.splitlines(keepends=True)[0] + end + b"\n"
    assert "1 records came" in problem(
        service.request("POST", "/vectors/import?mode=replace", content=cut, headers=bearer()), 400
    )
    assert service.get("/vectors/export?end=count", headers=bearer()).content == whole
    assert "no end 'soon'" in problem(service.get("/vectors/export?end=soon", headers=bearer()), 400)


def test_an_export_imports_again_to_the_same_bytes(service: Running, bearer: Bearer) -> None:
    service.request("POST", "/vectors/import", content=body(3, 1, 2), headers=bearer())
    first = service.get("/vectors/export", headers=bearer()).content
    assert [json.loads(line)["id"] for line in first.splitlines()] == ["r00001", "r00002", "r00003"]
    answer = service.request("POST", "/vectors/import?mode=replace", content=first, headers=bearer())
    assert answer.json() == {"ok": True, "mode": "replace", "imported": 3, "total": 3}
    assert service.get("/vectors/export", headers=bearer()).content == first


def test_merge_is_the_default_mode(service: Running, bearer: Bearer) -> None:
    service.request("POST", "/vectors/import", content=body(1, 2), headers=bearer())
    answer = service.request("POST", "/vectors/import", content=body(2, 3, word="new"), headers=bearer())
    assert answer.json() == {"ok": True, "mode": "merge", "imported": 2, "total": 3}
    assert [line["text"] for line in exported(service, bearer())] == ["text number 1", "new number 2", "new number 3"]


def test_a_bad_line_is_named_and_nothing_is_changed(
    service: Running, bearer: Bearer, redis_client: redis.Redis
) -> None:
    service.request("POST", "/vectors/import", content=body(1), headers=bearer())
    bad = body(*range(2, 600)) + b'{"id": "x"}\n' + body(*range(600, 1200))
    refused = service.request("POST", "/vectors/import?mode=replace", content=bad, headers=bearer())
    assert problem(refused, 400).startswith("Line 599: text must be a text.")
    assert [line["id"] for line in exported(service, bearer())] == ["r00001"]
    assert redis_client.keys("*staging*") == []


def test_an_unknown_mode_and_a_chunked_import_are_refused(service: Running, bearer: Bearer) -> None:
    assert "?mode=merge or ?mode=replace" in problem(
        service.request("POST", "/vectors/import?mode=append", content=body(1), headers=bearer()), 400
    )
    assert "no Content-Length" in problem(
        service.request("POST", "/vectors/import", content=iter([body(1)]), headers=bearer()), 411
    )
    assert exported(service, bearer()) == []


def test_an_export_holds_what_lasts_exactly_once_while_another_client_adds_and_deletes(
    service: Running, bearer: Bearer, redis_url: str
) -> None:
    service.request("POST", "/vectors/import", content=body(*range(0, 1500, 2)), headers=bearer())
    done, churned = threading.Event(), itertools.count()

    def churn() -> None:
        with redis_store.connect(redis_url) as client:
            writer = VectorStore(client)
            for number in itertools.cycle(range(1, 1500, 2)):
                writer.add(Record(f"r{number:05}", "t", embed("t")))
                writer.delete(f"r{(number + 600) % 1500 // 2 * 2 + 1:05}")
                next(churned)
                if done.is_set():
                    return

    writer = threading.Thread(target=churn)
    writer.start()
    while next(churned) < 50:
        time.sleep(0.01)
    try:
        for _ in range(3):
            ids = [line["id"] for line in exported(service, bearer())]
            assert ids == sorted(set(ids))
            assert set(ids) >= {f"r{number:05}" for number in range(0, 1500, 2)}
    finally:
        done.set()
        writer.join()


def test_searches_during_imports_see_one_set_whole(service: Running, other: Running, bearer: Bearer) -> None:
    sets = [body(*range(40), word=word) for word in ("alpha", "omega")]
    service.request("POST", "/vectors/import?mode=replace", content=sets[0], headers=bearer())
    done, seen, mixed = threading.Event(), itertools.count(), []

    def search(running: Running) -> None:
        while not done.is_set():
            params = {"text": "alpha omega", "k": 100}
            matches = running.run("memory.search", params, headers=bearer()).json()["result"]["matches"]
            next(seen)
            if len(matches) != 40 or len({match["text"].split()[0] for match in matches}) != 1:
                mixed.append(matches)

    readers = [threading.Thread(target=search, args=(running,)) for running in (service, other)]
    for reader in readers:
        reader.start()
    for number in range(1, 16):
        answer = service.request("POST", "/vectors/import?mode=replace", content=sets[number % 2], headers=bearer())
        assert answer.json()["total"] == 40
    done.set()
    for reader in readers:
        reader.join()
    assert mixed == []
    assert next(seen) >= 10


def test_without_redis_memory_is_unavailable_and_echo_works(
    folder: Path, bearer: Bearer, redis_server_factory: Callable[..., Any]
) -> None:
    server = redis_server_factory()
    with serving(folder, name="no-redis", workers=1, ZANTARA_REDIS_URL=server.url) as running:
        assert running.run("memory.add", {"text": "x", "id": "kept"}).status_code == 200
        server.freeze()
        with Stopwatch() as watch:
            assert "Redis did not answer" in problem(running.run("memory.search", {"text": "x"}), 503)
        assert watch.seconds < 1.5
        server.thaw()
        server.kill()
        for key, params in (
            ("memory.add", {"text": "x"}),
            ("memory.search", {"text": "x"}),
            ("memory.delete", {"id": "x"}),
        ):
            response = running.run(key, params)
            assert "see that Redis runs" in problem(response, 503)
            assert response.headers["retry-after"] == "1"
        for path in ("/vectors/export", "/_chaos"):
            problem(running.get(path, headers=bearer()), 503)
        problem(running.request("POST", "/vectors/import", content=body(1), headers=bearer()), 503)
        assert running.run("echo", {"a": 1}).json()["result"] == {"a": 1}
        assert running.get("/livez").status_code == 200
        server.start()
        deadline = time.monotonic() + 30
        while running.run("memory.add", {"text": "y"}).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "Traceback" not in running.log.read_text()


def test_an_export_that_breaks_off_does_not_look_complete(
    folder: Path, bearer: Bearer, redis_server_factory: Callable[..., Any]
) -> None:
    server = redis_server_factory()
    with redis_store.connect(server.url) as client:
        VectorStore(client).import_all(
            [Record(f"r{n:05}", "t" * 4000, embed(f"t {n}")) for n in range(5000)], "replace"
        )
    with serving(folder, name="broken-export", workers=1, ZANTARA_REDIS_URL=server.url) as running:
        received = b""
        with httpx2.stream("GET", f"{running.url}/vectors/export", headers=bearer(), trust_env=False) as response:
            assert response.status_code == 200
            for chunk in response.iter_raw():
                if not received:
                    server.kill()
                received += chunk
        lines = received.splitlines()
        assert len(lines) < 5000
        assert json.loads(lines[-1])["error"].startswith("This export is incomplete. Redis did not answer")
        with pytest.raises(Refused, match=rf"^Line {len(lines)}: There is no parameter 'error'"):
            list(from_lines(iter(lines)))
