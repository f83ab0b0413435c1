"""A release on its way through the whole stack, while everything that carries it out is killed, one after the other."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.on_stack import OnStack
from tests.stack import Stack, http_status, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("stack")]

BACK_SECONDS = 60.0
OVER = ("succeeded", "rolled_back", "failed", "aborted", "rollback_blocked", "paused")


@pytest.fixture(scope="module")
def on() -> Iterator[OnStack]:
    with tempfile.TemporaryDirectory(prefix="zt-rollout-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "var", environ={"ZANTARA_LIMITS_TIMEOUT": "2s"}).start()
        try:
            on = OnStack(stack.wait_ready())
            wait_for(
                lambda: on.rows("SELECT 1 FROM deployments_deployment WHERE state = 'succeeded'"),
                120,
                "the first release",
            )
            yield on
        finally:
            stack.stop()


def kill(on: OnStack, child: str) -> None:
    """SIGKILL the child with all that belongs to it; wait until the supervisor has put another in its place."""
    from controlplane.embedded import processes

    first = on.stack.children()[child]
    for process in processes.session_members(first):
        on.kill(process.pid)
    wait_for(lambda: on.stack.children().get(child, first) != first, BACK_SECONDS, f"another {child}")


def ticks_again(on: OnStack, name: str) -> bool:
    """Somebody has held the deployment since now."""
    since = time.time()
    wait_for(
        lambda: on.after(
            on.rows("SELECT lease_heartbeat_at FROM deployments_deployment WHERE name = ?", name)[0][0], since
        ),
        BACK_SECONDS,
        "the next tick",
    )
    return True


@pytest.mark.parametrize("child", ["worker-engine", "beat", "redis", "web", "worker-work"])
def test_a_rollout_goes_on_when_it_is_killed_and_no_caller_notices(on: OnStack, child: str) -> None:
    on.plan([(20, 12), (100, 0)])
    with on.load(30) as load:
        name = on.deploy(f"without-{child}")
        on.wait_for_state(name, "baking", seconds=90)
        kill(on, child)
        assert ticks_again(on, name)
        on.wait_for_state(name, *OVER, seconds=150)
    assert on.state(name) == "succeeded"
    assert {one["release"] for one in on.instances()} == {f"without-{child}"}
    # Without Redis the limiter's fail mode answers; whatever it says, nobody meets a broken connection.
    assert (load.result["failed"], load.result["closed"]) == (0, 0)
    assert not {"500", "502", "504"} & set(load.result["statuses"])


def test_a_rollout_goes_on_when_the_proxy_is_killed_and_its_counters_begin_anew(on: OnStack) -> None:
    on.plan([(20, 12), (100, 0)])
    with on.load(30):
        name = on.deploy("without-edge")
        on.wait_for_state(name, "baking", seconds=90)
        kill(on, "edge")
        wait_for(
            lambda: http_status(f"{on.stack.sample_url}/zantara.unified") in (200, 429),
            BACK_SECONDS,
            "its answer",
        )
        on.wait_for_state(name, *OVER, seconds=150)
    assert on.state(name) == "succeeded", "an edge that was away says nothing against a release"


def test_a_bad_release_is_taken_back_although_the_engine_dies_on_the_way(on: OnStack) -> None:
    serving = {one["release"] for one in on.instances()}
    on.plan([(20, 120), (100, 0)])
    on.chaos("bad-and-killed", error_rate=1.0)
    with on.load(30):
        name = on.deploy("bad-and-killed")
        on.wait_for_state(name, "baking", "rolling_back", "rolled_back", seconds=90)
        for process in on.engine_processes():
            on.kill(process)
        on.wait_for_state(name, *OVER, seconds=120)
    assert on.state(name) == "rolled_back"
    assert {one["release"] for one in on.instances()} == serving


def test_a_stack_that_is_killed_whole_goes_on_with_its_rollout_when_it_is_back(on: OnStack) -> None:
    on.plan([(20, 15), (100, 0)])
    name = on.deploy("over-a-restart")
    on.wait_for_state(name, "baking", seconds=90)
    os.kill(on.stack.process.pid, signal.SIGKILL)
    on.stack.process.wait(10)
    on.stack.start().wait_ready()
    with on.load(30):
        on.wait_for_state(name, *OVER, seconds=200)
    assert on.state(name) == "succeeded"
    assert len({one["name"] for one in on.instances()}) == 3
