"""Each child of a running stack is killed: another takes its place within ten seconds, and the stack answers again."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from controlplane.embedded import processes
from tests.deployments.on_stack import OnStack
from tests.stack import Stack, http_status, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("stack")]

BACK_SECONDS = 10.0
#: A child imports everything before it answers; on a busy machine with two cores that takes its time.
ANSWERS_SECONDS = 90.0


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="zt-kills-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "var").start()
        try:
            yield stack.wait_ready()
        finally:
            stack.stop()


def kill_and_wait(stack: Stack, name: str, answers: Callable[[], bool]) -> None:
    """SIGKILL the child; another process must stand in its place within ten seconds and answer in time."""
    first = stack.children()[name]
    before = {process.pid for process in processes.session_members(first)}
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: stack.children().get(name, first) != first, BACK_SECONDS, f"another {name}")
    wait_for(answers, ANSWERS_SECONDS, f"{name} to answer again")
    assert not before & {process.pid for process in processes.session_members(first)}
    assert any(line.endswith(f"{name} ended (SIGKILL); it starts again in 0.2 s") for line in stack.lines())
    assert stack.process.poll() is None


def pings(stack: Stack) -> bool:
    try:
        with redis.Redis.from_url(stack.redis_url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def is_on_disk(client: redis.Redis) -> bool:
    """Whether Redis has written and synced all that it has answered; it may put that off by two seconds."""
    now = client.info("persistence")
    return (now["aof_buffer_length"], now["aof_pending_bio_fsync"]) == (0, 0)


def test_the_web_server_comes_back(running: Stack) -> None:
    kill_and_wait(running, "web", lambda: http_status(f"{running.web_url}/readyz") == 200)


def test_the_edge_comes_back_with_what_it_was_told(running: Stack) -> None:
    kill_and_wait(running, "edge", lambda: http_status(f"{running.sample_url}/zantara.unified") == 200)


def test_a_killed_instance_is_started_again_and_nobody_is_refused_meanwhile(running: Stack) -> None:
    on = OnStack(running)
    wait_for(lambda: len([one for one in on.instances() if one["ready"]]) == 3, 60, "three ready instances")
    victim = on.instances()[0]
    with on.load(20) as load:
        os.kill(victim["handle"]["pid"], signal.SIGKILL)

        def is_back() -> bool:
            now = {one["name"]: one for one in on.instances()}.get(victim["name"])
            return now is not None and now["ready"] and now["handle"]["pid"] != victim["handle"]["pid"]

        wait_for(is_back, ANSWERS_SECONDS, "another instance")
    # Requests that it had in hand die with it; a request that it never saw is sent to another one.
    bad = load.result["failed"] + sum(n for status, n in load.result["statuses"].items() if status != "200")
    assert bad <= 3, load.result


def test_redis_comes_back_with_what_it_held_and_the_services_stay(running: Stack) -> None:
    before = running.children()
    with redis.Redis.from_url(running.redis_url) as client:
        client.set("a-count", 41)
        wait_for(lambda: is_on_disk(client), 60, "Redis to write it down")
    kill_and_wait(running, "redis", lambda: pings(running))
    with redis.Redis.from_url(running.redis_url) as client:
        assert client.get("a-count") == b"41"
    wait_for(
        lambda: http_status(f"{running.sample_url}/zantara.unified") == 200, ANSWERS_SECONDS, "the sample's answer"
    )
    wait_for(lambda: http_status(f"{running.web_url}/readyz") == 200, ANSWERS_SECONDS, "the web's answer")
    after = running.children()
    assert {name: pid for name, pid in after.items() if name != "redis"} == {
        name: pid for name, pid in before.items() if name != "redis"
    }


def test_the_vector_store_comes_back_at_the_same_address(running: Stack) -> None:
    if "chroma" not in running.children():
        pytest.fail("the embedded stack has no vector store: is chromadb installed?")
    url = (running.data_dir / "run" / "chroma.url").read_text().strip()
    kill_and_wait(running, "chroma", lambda: http_status(f"{url}/api/v2/heartbeat") == 200)


@pytest.mark.parametrize("queue", ["engine", "work"])
def test_a_worker_comes_back_and_consumes(running: Stack, queue: str) -> None:
    ready = running.data_dir / "run" / "ready" / f"worker-{queue}"
    wait_for(ready.exists, ANSWERS_SECONDS, "the worker that is to be killed")  # an earlier kill may have ended it
    first = ready.read_text()

    def consumes() -> bool:
        return ready.exists() and ready.read_text() not in ("", first)

    kill_and_wait(running, f"worker-{queue}", consumes)


def test_beat_comes_back(running: Stack) -> None:
    kill_and_wait(running, "beat", lambda: bool(processes.find(running.children()["beat"])))


def test_a_killed_worker_process_of_the_web_is_replaced_by_its_own_server(running: Stack) -> None:
    server = running.children()["web"]
    members = [process.pid for process in processes.session_members(server) if process.pid != server]
    victim = next(pid for pid in members if b"granian" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: processes.find(victim) is None, 60, "the victim's end")
    wait_for(lambda: http_status(f"{running.web_url}/readyz") == 200, ANSWERS_SECONDS, "the web's answer")
    assert running.children()["web"] == server
