"""What callers see of the edge: shares, stickiness, headers, draining, and nothing of what dies behind it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable

from tests import needs
from tests.deployments.edge.kit import Answer, World, until


def test_each_release_gets_its_share(world: World) -> None:
    old, new = [world.instance("1.0") for _ in range(3)], [world.instance("2.0")]
    world.split({"1.0": (900, old), "2.0": (100, new)}, sticky=False)

    seen = world.client().releases(1500)

    assert seen.total() == 1500
    assert set(seen) == {"1.0", "2.0"}
    assert 0.06 < seen["2.0"] / 1500 < 0.14  # five standard deviations; to 1 point in benchmarks/


def test_twenty_five_changes_of_the_weights_fail_no_request_and_close_no_connection(world: World) -> None:
    old, new = [world.instance("1.0"), world.instance("1.0")], [world.instance("2.0")]
    world.split({"1.0": (1000, old), "2.0": (0, new)})
    load = world.load()

    for number in range(25):
        share = (100, 500, 1000, 300, 0)[number % 5]
        world.split({"1.0": (1000 - share, old), "2.0": (share, new)}, stable="1.0")

    seen = load.end()
    assert (seen["failed"], seen["closed"]) == (0, 0), seen
    assert seen["requests"] > 100
    assert set(seen["releases"]) == {"1.0", "2.0"}


def test_a_higher_share_only_adds_callers(world: World) -> None:
    old, new = [world.instance("1.0")], [world.instance("2.0")]
    world.split({"1.0": (900, old), "2.0": (100, new)})
    client = world.client()
    first = [client.get() for _ in range(150)]
    callers = {answer.cookie: answer.release for answer in first if answer.cookie}
    assert len(callers) == 150

    before = callers
    for share in (100, 300, 500, 900):
        world.split({"1.0": (1000 - share, old), "2.0": (share, new)})
        now = {cookie: client.get(Cookie=f"a=b; {cookie}").release for cookie in callers if cookie}
        assert {c for c, release in before.items() if release == "2.0"} <= {c for c, r in now.items() if r == "2.0"}
        before = now

    assert sum(release == "2.0" for release in before.values()) > 110  # of 135 expected at 90 %
    assert client.get(Cookie=next(iter(before)) or "").cookie is None


def test_a_bearer_of_a_token_stays_without_a_cookie(world: World) -> None:
    world.split({"1.0": (500, [world.instance("1.0")]), "2.0": (500, [world.instance("2.0")])})
    client = world.client()

    seen = {n: {client.get(Authorization=f"Bearer token-{n}").release for _ in range(5)} for n in range(40)}

    assert all(len(releases) == 1 for releases in seen.values())
    assert set.union(*seen.values()) == {"1.0", "2.0"}
    assert client.get(Authorization="Bearer token-1").cookie is None


def test_nobody_gets_a_cookie_while_there_is_one_release(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    assert world.client().get().cookie is None


def test_testers_choose_their_release(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")]), "2.0": (0, [world.instance("2.0")])})
    client = world.client()

    assert client.releases(20, X__Canary="always") == {"2.0": 20}
    assert client.releases(20, X__Canary="never") == {"1.0": 20}
    assert client.releases(20) == {"1.0": 20}
    world.split({"1.0": (1000, [world.instance("1.0")])})
    assert client.releases(20, X__Canary="always") == {"1.0": 20}


def test_the_callers_address_cannot_be_made_up(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    told = {"X__Forwarded__For": "6.6.6.6", "X_Forwarded_For": "7.7.7.7", "X__Real__IP": "8.8.8.8"}
    headers = world.client().get("/echo", **told, Forwarded="for=9.9.9.9").json["headers"]

    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert not {"x_forwarded_for", "x-real-ip", "forwarded"} & set(headers)
    assert not {"6.6.6.6", "7.7.7.7", "8.8.8.8"} & set(headers.values())


def test_instances_learn_since_when_a_request_waits(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    before = time.time()
    start = world.client().get("/echo", X__Request__Start="t=1").json["headers"]["x-request-start"]

    assert re.fullmatch(r"t=\d{10}\.\d{3}", start)
    assert before - 1 < float(start[2:]) < time.time() + 1
    from ratelimits.shedding.queue_wait import wait_since

    assert wait_since(start, float(start[2:]) + 2) == 2


def test_envoy_does_not_show_and_is_not_steered_by_callers(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    steering = {"x__envoy__max__retries": "9", "x__envoy__upstream__rq__timeout__ms": "1", "x__envoy__retry__on": "5xx"}
    echo = world.client().get("/echo", **steering, x__zantara__lot="7")

    assert not [name for name in echo.json["headers"] if name.startswith("x-envoy") or name == "x-zantara-lot"]
    assert not [name for name in echo.headers if name.startswith("x-envoy")]
    assert echo.headers["server"] == "upstream"


def test_refusals_arrive_as_they_are(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    shed, limited = world.client().get("/shed"), world.client().get("/code/429")

    assert (shed.status, shed.body) == (503, b'{"error": "SYSTEM_OVERLOADED"}')
    assert (limited.status, limited.release) == (429, "1.0")
    assert world.healthy() == {"1.0": 1}


def test_http_1_0_is_answered(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    with socket.create_connection(("127.0.0.1", world.port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(4096), b""))

    assert re.match(rb"HTTP/1\.[01] 200 ", answer)


def test_a_websocket_is_passed_on_both_ways(world: World) -> None:
    world.split({"1.0": (500, [world.instance("1.0")]), "2.0": (500, [world.instance("2.0")])})

    with socket.create_connection(("127.0.0.1", world.port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 101 ")
        for word in (b"first", b"second"):
            raw.sendall(word)
            assert raw.recv(4096) == word.upper()


def test_ab_counts_every_answer(world: World) -> None:
    ab = needs.command("ab", package="apache2-utils")
    world.split({"1.0": (1000, [world.instance("1.0")])})

    out = subprocess.run(
        [ab, "-n", "300", "-c", "20", f"http://127.0.0.1:{world.port}/"], capture_output=True, text=True, check=True
    ).stdout

    assert re.search(r"Complete requests:\s+300\b", out)
    assert re.search(r"Failed requests:\s+0\b", out)
    assert "Non-2xx" not in out


def test_a_draining_instance_finishes_what_it_has_and_gets_nothing_new(world: World) -> None:
    first, second = world.instance("1.0"), world.instance("1.0")
    world.split({"1.0": (1000, [first, second])})
    held: list[Answer] = []
    callers = [threading.Thread(target=lambda: held.append(world.client().get("/hold"))) for _ in range(6)]
    for caller in callers:
        caller.start()
    until("all six are with an instance", lambda: world.edge.counters("web").releases["1.0"].active == 6)

    drained = world.route({"1.0": (1000, [first.endpoint(draining=True), second.endpoint()])})
    world.apply(drained)
    until("it gets nothing", lambda: world.healthy() == {"1.0": 1})
    assert {world.client().get().instance for _ in range(30)} == {second.name}
    assert world.edge.counters("web").releases["1.0"].active == 6
    world.apply(world.route({"1.0": (1000, [second.endpoint()])}))  # taken away while it works
    assert held == []
    for instance in (first, second):
        instance.ask("/_go")
    for caller in callers:
        caller.join()

    assert [answer.status for answer in held] == [200] * 6
    assert {answer.instance for answer in held} == {first.name, second.name}


def test_an_instance_that_dies_changes_no_share(world: World) -> None:
    old, new = [world.instance("1.0") for _ in range(3)], [world.instance("2.0"), world.instance("2.0")]
    world.split({"1.0": (900, old), "2.0": (100, new)}, sticky=False)
    client = world.client()

    old[0].kill()
    new[0].kill()
    seen = client.releases(1500)  # tried elsewhere from the first request on: none of them has failed

    assert set(seen) == {"1.0", "2.0"}
    assert 0.06 < seen["2.0"] / 1500 < 0.14
    until("both are found out", lambda: world.healthy() == {"1.0": 2, "2.0": 1})


def test_a_dead_release_is_answered_for_by_the_stable_one(world: World) -> None:
    old, new = [world.instance("1.0")], [world.instance("2.0"), world.instance("2.0")]
    world.split({"1.0": (500, old), "2.0": (500, new)}, sticky=False)
    client = world.client()
    assert set(client.releases(100)) == {"1.0", "2.0"}

    for instance in new:
        instance.kill()
    at_once = client.releases(100)
    until("they are found out", lambda: world.healthy()["2.0"] == 0)
    before = world.edge.counters("web").releases
    after = client.releases(200)

    assert at_once == {"1.0": 100}
    assert after == {"1.0": 200}
    now = world.edge.counters("web").releases
    assert now["1.0"].requests - before["1.0"].requests == 200
    assert now["2.0"].requests == before["2.0"].requests
    assert (now["1.0"].errors, now["2.0"].errors) == (0, 0)


def test_an_instance_that_is_not_ready_gets_nothing_until_it_is(world: World) -> None:
    good, bad = world.instance("1.0"), world.instance("1.0")
    world.split({"1.0": (1000, [good, bad])})
    bad.ask("/_ready/503")
    until("it is out", lambda: world.healthy() == {"1.0": 1})
    client = world.client()

    assert {client.get().instance for _ in range(30)} == {good.name}
    bad.ask("/_ready/200")
    until("it is back", lambda: world.healthy() == {"1.0": 2})
    assert {client.get().instance for _ in range(30)} == {good.name, bad.name}


def test_a_health_path_that_redirects_makes_nobody_healthy(world: World) -> None:
    lost = world.instance("1.0")
    lost.ask("/_ready/302")
    route = world.route({"1.0": (1000, [lost.endpoint()])})
    world.edge.apply([route])
    until("it is in force", lambda: world.edge.read_back().get("web"))

    assert world.healthy() == {"1.0": 0}
    answer = world.client().get()
    assert (answer.status, answer.json["error"]) == (503, "NO_ANSWER")


def test_a_request_that_was_begun_is_not_done_twice(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})

    answer = world.client().get("/drop", method="POST", body=b"pay")

    assert (answer.status, answer.json) == (
        503,
        {"error": "NO_ANSWER", "message": "The service did not answer, please try again later"},
    )
    counted = world.edge.counters("web").releases["1.0"]
    assert (counted.requests, counted.errors) == (1, 1)


def test_a_slow_sender_costs_an_instance_nothing_and_a_large_body_is_refused(world: World) -> None:
    world.split({"1.0": (1000, [world.instance("1.0")])})
    most = world.edge.settings.body_bytes

    with socket.create_connection(("127.0.0.1", world.port), timeout=10) as slow:
        slow.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert world.client().get().status == 200
        assert world.edge.counters("web").releases["1.0"].active == 0
        slow.sendall(b"67890")
        head, _, body = slow.recv(65536).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["body"] == 10
    whole = world.client().get("/echo", method="POST", body=b"x" * (most // 2))
    assert whole.json["body"] == most // 2
    assert world.client().get("/echo", method="POST", body=b"x" * (most + 1)).status == 413


def test_services_share_a_port_by_host_and_prefix(world: World, free_port: Callable[[], int]) -> None:
    def one(service: str, **other: object) -> tuple[str, object]:
        instance = world.instance(service)
        return service, world.route({service: (1000, [instance.endpoint()])}, service=service, **other)

    routes = dict([one("all"), one("api", prefix="/api"), one("shop", hosts=("shop.example",))])
    other = free_port()
    routes.update([one("beside", port=other)])
    world.apply(*routes.values())  # type: ignore[arg-type]
    client = world.client()

    assert client.get("/api").release == "api"
    assert client.get("/api/v1").release == "api"
    assert client.get("/apiary").release == "all"
    assert client.get("/", Host="SHOP.example:3000").release == "shop"
    assert client.get("/api", Host="shop.example").release == "shop"
    assert world.client(other).get("/api").release == "beside"
