"""Knowledge on a real Chroma: seeded once whoever comes first, and honest when Chroma is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx2
import pytest

from controlplane.kernel.errors import Unavailable
from examples.zantara.chroma import ChromaClient
from examples.zantara.embedding import embed
from examples.zantara.knowledge import NAME, KnowledgeCollection
from examples.zantara.seed import seed
from examples.zantara.texts import TEXTS
from tests.ports import find_free_port
from tests.stopwatch import Stopwatch
from tests.zantara.conftest import ROOT, Running
from tests.zantara.test_endpoints import problem

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


@pytest.fixture
def empty_chroma(chroma: Running) -> Iterator[Running]:
    """Chroma without our collection, before and after."""
    chroma.request("DELETE", f"{COLLECTIONS}/{NAME}")
    yield chroma
    chroma.request("DELETE", f"{COLLECTIONS}/{NAME}")


@pytest.fixture
def frozen_chroma(chroma: Running) -> Iterator[Running]:
    os.killpg(chroma.process.pid, signal.SIGSTOP)
    yield chroma
    os.killpg(chroma.process.pid, signal.SIGCONT)


def count(chroma: Running) -> int:
    identifier = chroma.get(f"{COLLECTIONS}/{NAME}").json()["id"]
    return int(chroma.get(f"{COLLECTIONS}/{identifier}/count").json())


def search(service: Running, params: dict[str, Any], *, at: str = "unified") -> Any:
    """The matches, asked for until Chroma has been in time: on a busy machine it may miss the half second once."""
    deadline = time.monotonic() + 30
    while True:
        response = service.run("knowledge.search", params, at=at)
        late = response.status_code == 503 and "did not answer" in response.text
        if not late or time.monotonic() > deadline:
            assert response.status_code == 200, response.text
            return response.json()["result"]["matches"]
        time.sleep(0.2)


def test_the_first_search_makes_and_fills_the_collection(service: Running, empty_chroma: Running) -> None:
    matches = search(service, {"text": "restore drill of a backup", "k": 3}, at="ecosystem")
    assert len(matches) == 3
    assert matches[0]["metadata"] == {"topic": "backups"}
    assert matches[0]["text"] in {text for topic, text in TEXTS if topic == "backups"}
    assert 1 >= matches[0]["score"] >= matches[1]["score"] >= matches[2]["score"]
    assert count(empty_chroma) == len(TEXTS)


def test_a_text_finds_itself_with_a_score_of_one(service: Running, empty_chroma: Running) -> None:
    topic, text = TEXTS[7]
    (match,) = search(service, {"text": text, "k": 1})
    assert (match["text"], match["metadata"]) == (text, {"topic": topic})
    assert match["score"] == pytest.approx(1.0, abs=1e-5)


def test_a_collection_that_was_deleted_is_made_again(service: Running, empty_chroma: Running) -> None:
    for _ in range(2):
        for _ in range(6):  # both processes have learnt its id by now
            assert len(search(service, {"text": "limits"})) == 5
        assert empty_chroma.request("DELETE", f"{COLLECTIONS}/{NAME}").status_code == 200


def test_two_that_seed_at_once_make_one_collection(empty_chroma: Running) -> None:
    for _ in range(5):
        barrier = threading.Barrier(6)

        def run(_: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            seed(empty_chroma.url)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(run, range(6)))
        assert count(empty_chroma) == len(TEXTS)
        assert [one["name"] for one in empty_chroma.get(COLLECTIONS).json()] == [NAME]
        empty_chroma.request("DELETE", f"{COLLECTIONS}/{NAME}")


def test_seeding_again_leaves_alone_what_an_operator_changed(empty_chroma: Running) -> None:
    assert seed(empty_chroma.url) is True
    identifier = empty_chroma.get(f"{COLLECTIONS}/{NAME}").json()["id"]
    empty_chroma.request("POST", f"{COLLECTIONS}/{identifier}/delete", json={"ids": ["limits-01"]})
    assert seed(empty_chroma.url) is False
    assert count(empty_chroma) == len(TEXTS) - 1


def test_the_seed_command_says_what_it_did(empty_chroma: Running) -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        return subprocess.run(
            [sys.executable, "-m", "examples.zantara.seed"],
            cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    first, second = (run(ZANTARA_CHROMA_URL=empty_chroma.url) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"zantara-knowledge: {len(TEXTS)} texts written\n")
    assert (second.returncode, second.stdout) == (0, "zantara-knowledge: already there\n")
    unset = run()
    assert (unset.returncode, unset.stderr) == (1, "ZANTARA_CHROMA_URL is not set. Set it to Chroma's address.\n")


def test_without_an_address_the_answer_says_which_setting_is_missing(other: Running) -> None:
    detail = problem(other.run("knowledge.search", {"text": "x"}), 503)
    assert "Set ZANTARA_CHROMA_URL" in detail


def test_a_frozen_chroma_is_given_up_within_a_second(service: Running, frozen_chroma: Running) -> None:
    with Stopwatch() as watch:
        response = service.run("knowledge.search", {"text": "x"})
    assert watch.seconds < 1.0
    assert "Chroma did not answer" in problem(response, 503)
    assert service.run("echo").status_code == 200


def test_no_server_at_all_is_unavailable_at_once() -> None:
    with Stopwatch() as watch, closing(ChromaClient(f"http://127.0.0.1:{find_free_port()}")) as client:
        with pytest.raises(Unavailable, match="Chroma did not answer"):
            KnowledgeCollection(client).query(embed("x"), 1)
    assert watch.seconds < 1.0


def test_something_else_in_chromas_place_is_unavailable_not_a_crash(service: Running) -> None:
    for path in ("/livez", "/zantara.unified"):
        with closing(ChromaClient(service.url + path)) as client:
            with pytest.raises(Unavailable):
                KnowledgeCollection(client).query(embed("x"), 1)
    assert httpx2.get(f"{service.url}/livez", trust_env=False).status_code == 200


def test_the_health_document_tells_of_the_vector_store_and_stays_healthy_without_it(
    service: Running, other: Running, chroma: Running
) -> None:
    def told() -> tuple[bool, str]:
        document = service.get("/health").json()
        return document["healthy"], document["services"]["chroma"]

    wait_until(lambda: told() == (True, "pass"))
    os.killpg(chroma.process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: told()[1] != "pass")
        assert told()[0] is True
    finally:
        os.killpg(chroma.process.pid, signal.SIGCONT)
    assert "chroma" not in other.get("/health").json()["services"]


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
