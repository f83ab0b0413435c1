from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kernel.errors import Unavailable
from controlplane.kernel.registry import Probe, ProbeResult, Registry
from controlplane.monitoring.health import builtin, probes
from controlplane.monitoring.health.probes import (
    ProbeRunner,
    ReadinessJudge,
    Standing,
    run_probe,
    run_probes,
    settle,
)
from tests.stopwatch import Stopwatch

PASS = ProbeResult("pass", "fine")
FAIL = ProbeResult("fail", "broken")


def probe(name: str, run: Callable[[], ProbeResult], *, critical: bool = True, timeout_seconds: float = 30) -> Probe:
    return Probe(name, name, run, critical=critical, timeout_seconds=timeout_seconds)


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_an_answer_within_the_deadline_is_passed_on() -> None:
    result = ProbeResult("warn", "slow", remedy="wait", observed=4.0, unit="ms")
    assert run_probe(probe("answers", lambda: result)) == result


def test_an_exception_is_a_failure_with_its_secrets_masked() -> None:
    def broken() -> ProbeResult:
        raise ConnectionError("redis://:hunter2@cache:6379 refused")

    def away() -> ProbeResult:
        raise Unavailable("The bucket is away (password=hunter2).", remedy="Look at https://user:hunter2@s3.")

    assert run_probe(probe("broken", broken)) == ProbeResult("fail", "ConnectionError: redis://:***@cache:6379 refused")
    assert run_probe(probe("away", away)) == ProbeResult(
        "fail", "The bucket is away (password=***).", remedy="Look at https://user:***@s3."
    )


def test_a_probe_that_hangs_is_unknown_at_its_deadline_and_never_has_a_second_thread() -> None:
    runner, let_go, calls = ProbeRunner(), threading.Event(), []

    def hang() -> ProbeResult:
        calls.append(1)
        let_go.wait(30)
        return PASS

    hanging = probe("hangs", hang, timeout_seconds=0.1)
    try:
        for number in range(5):
            with Stopwatch() as watch:
                assert runner.run([hanging])["hangs"] == ProbeResult(
                    "unknown", "did not answer within 0.1 s", remedy="See whether hangs hangs or is overloaded."
                )
            # The first caller waits for the deadline; later ones are not held up by what is known to hang.
            assert watch.seconds < (0.4 if number == 0 else 0.09)
        assert (len(calls), threads_named("probe-hangs")) == (1, 1)
    finally:
        let_go.set()
    while threads_named("probe-hangs"):
        time.sleep(0.01)
    assert runner.run([replace(hanging, timeout_seconds=30)])["hangs"] == PASS
    assert len(calls) == 2


def test_several_hanging_probes_take_as_long_as_one() -> None:
    let_go = threading.Event()
    hanging = [probe(f"hang{n}", lambda: PASS if let_go.wait(30) else FAIL, timeout_seconds=0.2) for n in range(4)]
    with Stopwatch() as watch:
        results = run_probes([*hanging, probe("quick", lambda: PASS)])
    try:
        assert watch.seconds < 0.6
        assert {name: result.status for name, result in results.items()} == {
            **dict.fromkeys(("hang0", "hang1", "hang2", "hang3"), "unknown"), "quick": "pass",
        }  # fmt: skip
    finally:
        let_go.set()


def test_one_failure_is_forgiven_to_what_worked_and_two_are_not() -> None:
    standing = settle(Standing(), True)
    assert standing.passing
    standing = settle(standing, False)
    assert standing.passing
    standing = settle(standing, False)
    assert not standing.passing
    standing = settle(standing, True)
    assert standing.passing


def test_what_never_passed_fails_at_once() -> None:
    assert not settle(Standing(), False).passing


@given(st.lists(st.booleans(), max_size=30))
def test_failing_means_never_passed_or_twice_failed_in_a_row(answers: list[bool]) -> None:
    standing = Standing()
    for answer in answers:
        standing = settle(standing, answer)
    twice = answers[-2:] == [False, False]
    assert standing.passing is (any(answers) and not twice)
    assert standing.has_passed is any(answers)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Registry[Probe]:
    """An empty registry in place of the process's own."""
    registry: Registry[Probe] = Registry("health probe")
    monkeypatch.setattr(probes, "probes", registry)
    return registry


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the monotonic clock that readiness sees, which stands still otherwise."""
    now = [1000.0]
    monkeypatch.setattr("controlplane.kernel.clock.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_readiness_asks_critical_probes_alone_and_at_most_once_a_second(
    only: Registry[Probe], at: Callable[[float], None]
) -> None:
    calls: list[str] = []
    only.add("db", probe("db", lambda: calls.append("db") or PASS))
    only.add("nice", probe("nice", lambda: calls.append("nice") or FAIL, critical=False))
    judge = ReadinessJudge()
    for _ in range(5):
        assert judge.readiness().as_json() == {
            "status": "pass", "checks": {"db": {"status": "pass", "summary": "fine"}},
        }  # fmt: skip
    assert calls == ["db"]
    at(1.1)
    judge.readiness()
    assert calls == ["db", "db"]


def test_many_callers_at_once_cause_one_question(only: Registry[Probe], at: Callable[[float], None]) -> None:
    calls: list[int] = []

    def slow() -> ProbeResult:
        calls.append(1)
        time.sleep(0.1)
        return PASS

    only.add("db", probe("db", slow))
    judge, answers = ReadinessJudge(), []
    threads = [threading.Thread(target=lambda: answers.append(judge.readiness().ready)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (answers, calls) == ([True] * 10, [1])


def test_readiness_forgives_one_lost_answer_and_reports_the_second(
    only: Registry[Probe], at: Callable[[float], None]
) -> None:
    answer = [PASS]
    only.add("db", probe("db", lambda: answer[0]))
    judge, seen = ReadinessJudge(), []
    for result in (PASS, FAIL, FAIL, PASS):
        answer[0] = result
        seen.append(judge.readiness().ready)
        at(1.1)
    assert seen == [True, True, False, True]


def test_a_process_without_critical_probes_is_ready(only: Registry[Probe]) -> None:
    assert ReadinessJudge().readiness().as_json() == {"status": "pass", "checks": {}}


def test_the_database_probe_asks_the_database(transactional_db: None) -> None:
    result = run_probe(Probe("database", "the database", builtin.probe_database, timeout_seconds=5))
    assert (result.status, result.unit) == ("pass", "ms")
    assert result.observed is not None
    assert 0 < result.observed < 5000


def test_a_database_that_was_never_made_is_said_and_not_made_by_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "none.sqlite3"
    monkeypatch.setattr(builtin, "missing_sqlite_file", lambda: missing)
    assert builtin.probe_database() == ProbeResult(
        "fail", "there is no database yet", remedy="Run `manage.py bootstrap`."
    )
    assert not missing.exists()


def test_the_redis_probe_tells_a_server_that_answers_froze_or_died(
    redis_server_factory: Callable[..., Any], settings: Any
) -> None:
    server = redis_server_factory()
    settings.ZANTARA_REDIS_URL = server.url
    assert builtin.probe_redis().status == "pass"
    server.freeze()
    with Stopwatch() as watch:
        frozen = builtin.probe_redis()
    assert (frozen.status, frozen.summary) == ("fail", "Redis does not answer (TimeoutError)")
    assert watch.seconds < 0.5 + builtin.REDIS_TIMEOUT_SECONDS
    server.thaw()
    server.kill()
    assert builtin.probe_redis().summary == "Redis does not answer (ConnectionError)"


def test_only_servers_that_the_settings_name_are_probed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    registry: Registry[Probe] = Registry("health probe")
    monkeypatch.setattr(builtin, "probes", registry)
    builtin.register_builtin_probes()
    assert [(p.name, p.critical) for p in registry] == [("database", True), ("redis", False)]
    registry = Registry("health probe")
    monkeypatch.setattr(builtin, "probes", registry)
    monkeypatch.setattr(builtin, "has_database", lambda: False)
    settings.ZANTARA_REDIS_URL = None
    builtin.register_builtin_probes()
    assert list(registry) == []
