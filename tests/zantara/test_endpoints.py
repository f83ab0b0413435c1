"""The three endpoints on granian: what they offer, what they run, and what they refuse."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratelimits.shedding.policy import BUILT_IN
from ratelimits.shedding.publication import publish
from tests import needs
from tests.zantara.conftest import Running, serving

Bearer = Callable[..., dict[str, str]]

HANDLERS = {
    "unified": {"echo", "memory.add", "memory.search", "memory.delete", "knowledge.search"},
    "collective": {"echo", "memory.add", "memory.search", "memory.delete"},
    "ecosystem": {"echo", "knowledge.search"},
}


def problem(response: Any, status: int) -> str:
    """The detail of a problem document of this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["title"]
    assert "Traceback" not in response.text
    return str(document["detail"])


@pytest.mark.parametrize("endpoint", HANDLERS)
def test_get_says_what_there_is(service: Running, bearer: Bearer, endpoint: str) -> None:
    response = service.get(f"/zantara.{endpoint}", headers=bearer("CEO"))
    document = response.json()
    assert {handler["key"] for handler in document.pop("handlers")} == HANDLERS[endpoint]
    assert document == {"service": "zantara", "endpoint": endpoint, "release": "1", "role": "CEO"}
    assert response.headers["content-length"] == str(len(response.content))


def test_an_anonymous_caller_has_the_default_role(service: Running) -> None:
    assert service.get("/zantara.unified").json()["role"] == "default"


def test_head_is_a_get_without_a_body(service: Running) -> None:
    response = service.request("HEAD", "/zantara.unified")
    assert (response.status_code, response.content) == (200, b"")


def test_echo_answers_with_its_parameters(service: Running) -> None:
    params = {"text": "naïve 😀", "list": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    assert service.run("echo", params).json() == {"ok": True, "key": "echo", "result": params}


def test_params_may_be_left_out(service: Running) -> None:
    response = service.request("POST", "/zantara.unified", json={"key": "echo"})
    assert response.json() == {"ok": True, "key": "echo", "result": {}}


@pytest.mark.parametrize("endpoint", HANDLERS)
def test_a_handler_runs_only_where_it_is_offered(service: Running, endpoint: str) -> None:
    for key in HANDLERS["unified"]:
        status = service.run(key, {"text": "x", "id": "y"}, at=endpoint).status_code
        assert (status != 404) == (key in HANDLERS[endpoint])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b"[" * 200_000, 400, "nested too deeply"),
        (b'{"key": "echo", "params": {"a": NaN}}', 400, "NaN is not a JSON number"),
        (b'{"key": "echo", "params": {"a": 1e999}}', 400, "too large a number"),
        (b'{"key": "echo", "params": {"a": "\\ud800"}}', 400, "surrogate"),
        (b'{"key": "echo", "params": {"a": ' + b"9" * 5000 + b"}}", 400, "not JSON"),
        (b"[]", 400, "a list, not a JSON object"),
        (b'"echo"', 400, "a string, not a JSON object"),
        (b"7", 400, "a number, not a JSON object"),
        (b"null", 400, "null, not a JSON object"),
        (b"{}", 400, "key must be a text"),
        (b'{"key": ["echo"]}', 400, "key must be a text"),
        (b'{"key": "nope"}', 404, "no handler 'nope'. Known: echo"),
        (b'{"key": "echo", "params": []}', 400, "params must be an object"),
        (b'{"key": "echo", "params": null}', 400, "params must be an object"),
        (b'{"key": "memory.add", "params": {}}', 400, "text must be a text"),
        (b'{"key": "memory.add", "params": {"text": 7}}', 400, "text must be a text"),
        (b'{"key": "memory.add", "params": {"text": "x", "txt": "y"}}', 400, "no parameter 'txt'. Known: text"),
        (b'{"key": "memory.add", "params": {"text": "x", "id": "a\\nb"}}', 400, "id must be"),
        (b'{"key": "memory.add", "params": {"text": "x", "metadata": {"a": []}}}', 400, "without nested values"),
        (b'{"key": "memory.search", "params": {}}', 400, "either text or vector"),
        (b'{"key": "memory.search", "params": {"text": "x", "vector": [1]}}', 400, "either text or vector"),
        (b'{"key": "memory.search", "params": {"vector": [1, 2]}}', 400, "list of 384 numbers"),
        (b'{"key": "memory.search", "params": {"text": "x", "k": 0}}', 400, "Choose one from 1 to 100"),
        (b'{"key": "memory.search", "params": {"text": "x", "k": 101}}', 400, "Choose one from 1 to 100"),
        (b'{"key": "memory.search", "params": {"text": "x", "k": true}}', 400, "whole number"),
        (b'{"key": "memory.search", "params": {"text": "x", "k": 1.5}}', 400, "whole number"),
        (b'{"key": "knowledge.search", "params": {"text": ""}}', 400, "text must be a text"),
    ],
)
def test_a_bad_body_is_refused_with_the_way_to_put_it_right(
    service: Running, body: bytes, status: int, says: str
) -> None:
    response = service.request("POST", "/zantara.unified", content=body)
    assert says in problem(response, status)


def test_a_body_over_one_mebibyte_is_refused_unread(service: Running) -> None:
    fits = json.dumps({"key": "echo", "params": {"a": "x" * (2**20 - 40)}}).encode()
    assert len(fits) <= 2**20
    assert service.request("POST", "/zantara.unified", content=fits).status_code == 200
    assert "larger than 1048576 bytes" in problem(
        service.request("POST", "/zantara.unified", content=fits + b" " * 50), 413
    )


def test_a_chunked_body_is_told_to_come_with_a_length(service: Running) -> None:
    response = service.request("POST", "/zantara.unified", content=iter([b'{"key": ', b'"echo"}']))
    assert "no Content-Length" in problem(response, 411)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_told_which_ones_there_are(service: Running, method: str) -> None:
    response = service.request(method, "/zantara.unified")
    assert "Use GET or HEAD or POST." in problem(response, 405)
    assert response.headers["allow"] == "GET, HEAD, POST"


def test_an_unknown_path_lists_the_endpoints(service: Running) -> None:
    assert "/zantara.unified, /zantara.collective, /zantara.ecosystem" in problem(service.get("/zantara.other"), 404)


def test_a_foreign_host_is_refused(service: Running) -> None:
    assert "ZANTARA_ALLOWED_HOSTS" in problem(service.get("/zantara.unified", headers={"Host": "evil.example"}), 400)


def test_a_forged_token_is_refused_and_never_becomes_anonymous(service: Running, bearer: Bearer) -> None:
    forged = bearer()["Authorization"][:-4] + "AAAA"
    response = service.get("/zantara.unified", headers={"Authorization": forged})
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


def test_a_body_that_breaks_off_harms_nobody(service: Running, bearer: Bearer) -> None:
    port = int(service.url.rsplit(":", 1)[1])
    # a caller of his own: he may be counted only in the next test
    lines = ["POST /zantara.unified HTTP/1.1", "Host: localhost", "Content-Length: 500"]
    lines.append(f"Authorization: {bearer('CEO', 'who breaks off')['Authorization']}")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall("\r\n".join([*lines, "", '{"key": ']).encode())
    assert service.run("echo").status_code == 200
    assert "Internal server error" not in service.log.read_text()


def test_health_is_answered_without_a_limit(service: Running) -> None:
    for _ in range(105):
        assert service.get("/livez").text == "ok"
    response = service.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "pass")
    assert "ratelimit-limit" not in response.headers
    assert service.get("/zantara.unified").headers["ratelimit-remaining"] == "99"


def test_limits_are_those_of_the_role(service: Running, bearer: Bearer) -> None:
    assert service.get("/zantara.unified").headers["ratelimit-limit"] == "100"
    assert service.get("/zantara.unified", headers=bearer("External")).headers["ratelimit-limit"] == "50"
    assert service.get("/zantara.unified", headers=bearer()).headers["ratelimit-limit"] == "1000"


@pytest.fixture
def unshedding(folder: Path, bearer: Bearer, redis_server_factory: Callable[..., Any]) -> Iterator[Running]:
    """A service in two processes that refuses nobody for want of room, as it else may on a busy machine."""
    server = redis_server_factory()
    with server.client() as client:
        assert publish(client, replace(BUILT_IN, version=1, active=False)).status == "in_force"
    with serving(
        folder, name="unshedding", ZANTARA_REDIS_URL=server.url, ZANTARA_LIMITS_TIMEOUT="5s", ZANTARA_LOG_LEVEL="INFO"
    ) as running:
        deadline = time.monotonic() + 30
        while running.log.read_text().count("shedding_policy_learned") < 2:
            assert time.monotonic() < deadline
            running.get("/zantara.unified", headers=bearer("CEO"))
        yield running


def test_ab_gets_exactly_the_limit_through(unshedding: Running, bearer: Bearer) -> None:
    program = needs.command("ab", package="apache2-utils")

    def attack(*extra: str) -> str:
        command = [program, "-n", "1000", "-c", "100", "-q", *extra, f"{unshedding.url}/zantara.unified"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    anonymous = attack()
    assert "Complete requests:      1000" in anonymous
    assert "Non-2xx responses:      900\n" in anonymous
    lead = attack("-H", f"Authorization: {bearer()['Authorization']}")
    assert "Complete requests:      1000" in lead
    assert "Non-2xx" not in lead
