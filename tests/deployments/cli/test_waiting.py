"""``--wait``: what is shown while others work, when it ends, and with which code. Between two looks a script works."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from controlplane.kernel import clock, transitions
from deployments.cli import following
from deployments.cli.output import DeployOutput, drawing
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment, DeploymentEvent, Service, ServiceState
from tests.deployments.factories import make_deployment, make_release, make_service, serve

from .conftest import Call

Act = Callable[[], object]
Script = Callable[..., None]


@pytest.fixture
def shop(db: None) -> Service:
    service = make_service("shop")
    serve(service, make_release(service, "1.0"))
    make_release(service, "2.0")
    return service


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Do these one after the other, one between two looks; a look beyond them is a failure."""

    def play(*acts: Act) -> None:
        left: Iterator[Act] = iter(acts)

        def pause() -> None:
            next(left)()

        monkeypatch.setattr(following, "pause", pause)

    return play


def beat() -> None:
    ServiceState.objects.update(lease_heartbeat_at=clock.now())


def move(to: str, reason: str = "", **changes: Any) -> Act:
    """A worker moves the one deployment."""

    def act() -> None:
        deployment = Deployment.objects.get()
        transitions.advance(
            deployment, to, machine=DEPLOYMENT, event=DeploymentEvent, reason=reason, changes=changes or None
        )
        beat()

    return act


WAY = ("queued", "starting", "shifting", "baking")


def way(*to: str) -> list[Act]:
    return [move(state) for state in (*WAY, *to)]


def test_it_waits_until_the_release_serves_everybody(call: Call, shop: Service, between: Script) -> None:
    between(
        *way(), move("validating", "all stages passed", requested_permille=1000, effective_permille=1000),
        move("finishing"), move("succeeded"),
    )  # fmt: skip
    called = call("shop", "--version", "2.0", "--wait")
    name = Deployment.objects.get().name
    assert (called.code, called.err) == (0, "")
    lines = called.out.splitlines()
    assert lines[0] == f"{name} is asked for: shop 2.0"
    assert f"{name} shop 2.0: waiting" in lines
    assert f"{name} shop 2.0: validating, 100 % (100 % seen)" in lines
    assert any(line.endswith(" validating: all stages passed") for line in lines)
    assert lines[-1] == f"✓ {name}: shop 2.0 succeeded"


@pytest.mark.parametrize(
    ("path", "code", "last"),
    [
        (("rolling_back", "rolled_back"), 3, "✗ {name}: shop 2.0 rolled back"),
        (("rolling_back", "rollback_blocked"), 6, "✗ {name}: shop 2.0 rollback blocked"),
        (("paused",), 5, "‖ {name}: shop 2.0 is held"),
    ],
)
def test_the_exit_code_says_how_it_ended(
    call: Call, shop: Service, between: Script, path: tuple[str, ...], code: int, last: str
) -> None:
    why = "5 of 100 requests failed, and 0 of 900 before."
    between(*way(*path[:-1]), move(path[-1], error=why, pause_reason=why))
    called = call("shop", "--version", "2.0", "--wait")
    assert called.code == code
    lines = called.out.splitlines()
    at = lines.index(last.format(name=Deployment.objects.get().name))
    assert lines[at + 1] == f"  {why}"


@pytest.mark.parametrize(("path", "code"), [(("queued", "failed"), 1), (("queued", "aborted"), 4)])
def test_what_ended_before_it_had_traffic(
    call: Call, shop: Service, between: Script, path: tuple[str, ...], code: int
) -> None:
    between(*(move(state) for state in path))
    assert call("shop", "--version", "2.0", "--wait").code == code


def test_programs_get_one_json_object_a_line(call: Call, shop: Service, between: Script) -> None:
    between(*way("rolling_back"), move("rolled_back", "it was bad", error="It was bad."))
    called = call("shop", "--version", "2.0", "--wait", "--json")
    entries = called.entries
    assert called.code == 3
    assert [entry["kind"] for entry in entries[:2]] == ["asked", "event"]
    moves = [entry["to_state"] for entry in entries if entry["kind"] == "event"]
    assert moves == ["waiting", *WAY, "rolling_back", "rolled_back"]
    assert (entries[-1]["kind"], entries[-1]["exit_code"]) == ("end", 3)
    assert entries[-1]["deployment"]["error"] == "It was bad."


def test_after_the_timeout_it_is_not_known_how_it_ends(call: Call, shop: Service) -> None:
    called = call("shop", "--version", "2.0", "--wait", "--timeout", "0.05", "--json")
    deployment = Deployment.objects.get()
    assert called.code == 5
    assert called.err == f"{deployment.name} is still waiting after 0.05 s; it goes on.\n"
    assert called.entries[-1]["text"] == called.err.strip()
    assert (deployment.state, deployment.commands.count()) == ("waiting", 0)


def test_that_nobody_is_at_work_is_said_once_each_time_it_begins(
    call: Call, shop: Service, between: Script, time_machine: Any
) -> None:
    time_machine.move_to(clock.now(), tick=False)
    later = lambda seconds: lambda: time_machine.shift(timedelta(seconds=seconds))  # noqa: E731
    between(later(14), later(2), later(20), move("queued"), later(16), later(16), move("failed"))
    called = call("shop", "--version", "2.0", "--wait")
    assert called.code == 1
    hint = "Is the stack running? (`make run`, or a worker of the queue “engine” and beat.)"
    assert called.err.splitlines() == [
        f"No worker has looked at shop for 16 s. {hint}",
        f"No worker has looked at shop for 16 s. {hint}",
    ]


def test_a_refused_request_is_a_line_too(call: Call, shop: Service) -> None:
    called = call("shop", "--version", "9", "--wait", "--json")
    assert (called.code, called.entries) == (2, [{"error": "shop has no release 9.", "remedy": "It has: 2.0, 1.0."}])


def test_watching_can_be_taken_up_again_and_commands_are_watched(call: Call, shop: Service, between: Script) -> None:
    make_deployment(shop, shop.releases.get(version="2.0"), state="baking")
    between(move("rolling_back"), move("rolled_back"))
    assert call("abort", "shop", "--wait").code == 3
    assert call("status", "shop", "--wait").code == 3


def test_interrupting_ends_the_watching_and_nothing_else(call: Call, shop: Service, between: Script) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    between(interrupt)
    called = call("shop", "--version", "2.0", "--wait")
    assert (called.code, called.err) == (130, "Interrupted. What was asked for goes on.\n")
    assert Deployment.objects.get().state == "waiting"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_stages_while_they_pass(
    shop: Service, between: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    deployment = make_deployment(
        shop, shop.releases.get(version="2.0"), state="baking", requested_permille=100, effective_permille=98,
        from_release=shop.releases.get(version="1.0"), observed_seconds=42,
        verdict={"sentence": "Nothing speaks against it."},
    )  # fmt: skip
    between(move("rolling_back"), move("rolled_back"))
    stream = Terminal()
    code = following.follow(deployment, DeployOutput(stream, as_json=False), timeout=None)
    shown = stream.getvalue()
    assert code == 3
    assert "1.0 → 2.0: baking, 10 % (9.8 % seen)" in shown
    assert "42 of 300 s" in shown
    assert "Nothing speaks against it." in shown
    assert f"✗ {deployment.name}: shop 2.0 rolled back" in shown


def test_steps_of_the_pipeline_are_drawn_with_their_outcome(shop: Service) -> None:
    from rich.console import Console

    deployment = make_deployment(shop, shop.releases.get(version="2.0"), state="checking")
    for position, (name, outcome) in enumerate((("Types", "passed"), ("Tests", "failed"), ("Audit", ""))):
        deployment.step_runs.create(
            phase="check", position=position, name=name, kind="command", outcome=outcome, started_at=clock.now()
        )
    stream = io.StringIO()
    Console(file=stream, width=100).print(drawing(deployment))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[-3:] == ["✓ check: Types", "✗ check: Tests", "▶ check: Audit"]
    assert json.dumps(lines[0]).endswith('2.0: checking"')
