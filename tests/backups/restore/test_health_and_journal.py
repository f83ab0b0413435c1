"""The score that a restore must reach, and the file that outlives everything else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backups.errors import RestoreFailed
from backups.restore import health
from backups.restore import journal as journals
from backups.restore.journal import Journal, PartState, ServiceState, SetState
from backups.restore.options import Options
from controlplane.kernel.errors import Refused
from controlplane.kernel.registry import ProbeResult
from tests.backups.restore.health_server import HealthServer

# --- health ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: Any) -> Path:
    settings.ZANTARA_DATA_DIR = tmp_path
    settings.ZANTARA_CHROMA_URL = None
    return tmp_path


def test_only_services_that_answered_before_must_answer_after(db: None, settings: Any, free_port: Any) -> None:
    server = HealthServer()
    try:
        settings.ZANTARA_SERVICES = [f"up={server.url}/metrics", f"down=http://127.0.0.1:{free_port()}"]
        assert health.answering() == ["up"]
        assert health.observe(["up"]).value == 100
        server.status = lambda: 404  # of another make, without this page, but it serves
        assert health.observe(["up"]).value == 100
        server.status = lambda: 503
        score = health.observe(["up"])
        assert (score.value, score.failed_gates) == (0, ("api",))
        assert "up answered 503" in score.reasons[0]
    finally:
        server.close()


def test_without_any_service_the_rest_is_scored(db: None) -> None:
    score = health.observe([])
    assert (score.value, score.failed_gates) == (100, ())


def test_a_service_whose_address_was_taken_away_has_failed(db: None, settings: Any) -> None:
    settings.ZANTARA_SERVICES = []
    assert health.observe(["gone"]).failed_gates == ("api",)


def test_a_vector_store_that_is_away_costs_its_weight(db: None, settings: Any, free_port: Any) -> None:
    settings.ZANTARA_CHROMA_URL = f"http://127.0.0.1:{free_port()}"
    score = health.observe([])
    assert score.value == 100 * 35 // 55
    assert not score.suffices()


def test_a_database_that_is_down_is_a_gate(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "run_probe", lambda _: ProbeResult("fail", "it does not answer"))
    assert health.observe([]).failed_gates == ("database",)


def test_a_system_gets_time_to_get_well(db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PAUSE_SECONDS", 0.01)
    server, looks = HealthServer(), []
    try:
        settings.ZANTARA_SERVICES = [f"up={server.url}"]
        server.status = lambda: 200 if len(looks) > 3 else 503
        score = health.wait_for(["up"], 80, check=lambda: looks.append(1))
        assert (score.value, len(looks)) == (100, 4)
    finally:
        server.close()


# --- options --------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_first_zantara() -> None:
    assert Options.of(None).as_json() == {
        "stop_services": False, "services": [], "vectors": True, "configuration": False, "userdata": False,
        "databases": False, "logs": False, "minimum_score": 80, "without_safety_backup": False,
    }  # fmt: skip
    assert Options.of(Options.of({"services": ["a", "a"]}).as_json()).services == ("a",)


@pytest.mark.parametrize(
    "wrong",
    [{"force": True}, {"services": "web"}, {"services": [1]}, {"minimum_score": True}, {"minimum_score": -1},
     {"minimum_score": "80"}, {"vectors": "no"}],
)  # fmt: skip
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        Options.of(wrong)


# --- journal --------------------------------------------------------------------------------------------------------


def journal_of(name: str, **changes: Any) -> Journal:
    given: dict[str, Any] = {
        "name": name, "mode": "online", "created_at": "2026-11-23T02:00:00+00:00", "host": "here",
        "requested_by": "ops", "reason": "why", "options": {},
        "set": SetState("b", "sets/x", "0" * 64, {"kind": "local"}, 7),
        "parts": [PartState("config", "files", {"base": "/x"}, "", 0, 10, "r123", memory={"a": [1]})],
        "safety": SetState("s", "sets/y", "1" * 64, {}), "services": [ServiceState("web", {"kind": "port"}, True)],
    }  # fmt: skip
    return Journal(**given | changes)


def test_a_journal_reads_as_it_was_written() -> None:
    journal = journal_of("zantara-restore-1")
    journal.save()
    assert journals.load("zantara-restore-1") == journal
    assert journals.load("zantara-restore-2") is None
    assert [path.name for path in journals.folder().iterdir()] == ["zantara-restore-1.json"]


def test_a_write_that_fails_leaves_the_journal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_of("zantara-restore-1")
    journal.save()
    journal.state = "swapping"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RestoreFailed, match="No space left on device"):
        journal.save()
    monkeypatch.undo()
    read = journals.load("zantara-restore-1")
    assert read is not None
    assert read.state == "queued"
    assert [path.name for path in journals.folder().iterdir()] == ["zantara-restore-1.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 9}', '{"format": 1, "name": "x"}'])
def test_what_is_no_journal_is_told_of_and_keeps_nobody_from_the_others(content: str) -> None:
    (journals.folder() / "odd.json").write_text(content)
    journal_of("good").save()
    journal_of("over", state="done").save()
    with pytest.raises(RestoreFailed, match="do not delete it"):
        journals.load("odd")
    assert [journal.name for journal in journals.unfinished()] == ["good"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "A", "x" * 81])
def test_a_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(Refused):
        journals.path_of(name)


def test_one_process_at_a_time_holds_a_journal() -> None:
    with journals.held("one") as first, journals.held("one") as second, journals.held("two") as other:
        assert (first, second, other) == (True, False, True)
    with journals.held("one") as again:
        assert again
