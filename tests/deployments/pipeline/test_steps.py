"""From a row to what is run, and from what it came to whether the deployment goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.kernel.errors import ConfigurationError, Refused
from deployments import pipeline
from deployments.models import PipelineStep
from deployments.pipeline import kinds, runner, seeded, steps
from deployments.pipeline.base import Findings, StepSpec
from deployments.pipeline.fetch import Fetched, checkout_path
from deployments.pipeline.steps import Place, freeze_step, judge_outcome, read_step, run_folder, step_spec, step_specs

from .conftest import ended


def row(**columns: Any) -> dict[str, Any]:
    return {**freeze_step(PipelineStep(phase="check", name="a check", command="true")), **columns}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "checkout" / "part").mkdir(parents=True)
    return tmp_path / "checkout"


@pytest.fixture
def place(checkout: Path) -> Place:
    return Place(
        service="shop", version="4.2", checkout=checkout, environ={"COLOUR": "blue", "N": 3},  # type: ignore[dict-item]
        secret_environ={"TOKEN": "hunter22"}, environment="production", region="us-east-1", digest="abc",
        url="http://127.0.0.1:3000/",
    )  # fmt: skip


def test_a_frozen_step_holds_all_that_its_run_needs() -> None:
    step = PipelineStep(phase="build", position=3, name="wheel", kind="command", command="make", enabled=False)
    assert freeze_step(step) == {
        "phase": "build", "position": 3, "name": "wheel", "kind": "command", "command": "make",
        "working_directory": "", "timeout_seconds": 600, "blocks": True, "unknown_policy": "block",
    }  # fmt: skip


def test_a_step_runs_in_its_directory_of_the_checkout_for_its_time(place: Place, checkout: Path) -> None:
    spec = step_spec(row(command="make 'two words'", working_directory="part", timeout_seconds=7), place)
    assert (spec.name, spec.kind, spec.argv, spec.cwd, spec.timeout_seconds) == (
        "a check", "command", ("make", "two words"), checkout / "part", 7
    )  # fmt: skip


@pytest.mark.parametrize("within", ["..", "../other", "/etc", "out", "part/../../x"])
def test_a_directory_outside_of_the_checkout_is_refused(place: Place, checkout: Path, within: str) -> None:
    (checkout / "out").symlink_to("/etc")
    with pytest.raises(Refused, match="is not within the release's checkout"):
        step_spec(row(working_directory=within), place)


def test_words_in_a_command_stand_for_what_is_known_of_the_release(place: Place, checkout: Path) -> None:
    spec = step_spec(row(command="{python} x --at={checkout}/y {service}-{version} {url}livez {other}"), place)
    assert spec.argv == (
        sys.executable, "x", f"--at={checkout}/y", "shop-4.2", "http://127.0.0.1:3000/livez", "{other}"
    )  # fmt: skip


def test_a_virtual_environment_in_the_checkout_is_the_one_that_is_used(place: Place, checkout: Path) -> None:
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text("#!/bin/sh\n")
    assert step_spec(row(kind="mypy", command=""), place).argv[0] == sys.executable  # not executable: none
    (programs / "python").chmod(0o755)
    spec = step_spec(row(kind="mypy", command=""), place)
    assert spec.argv == (str(programs / "python"), "-m", "mypy", "--no-color-output", ".")
    assert spec.environ["VIRTUAL_ENV"] == str(checkout / ".venv")
    assert spec.environ["PIPAPI_PYTHON_LOCATION"] == str(programs / "python")
    paths = spec.environ["PATH"].split(os.pathsep)
    assert (paths[0], paths[-1]) == (str(programs), str(Path(sys.executable).parent))


@pytest.mark.parametrize(
    ("phase", "given"),
    [
        ("check", {}),
        ("build", {"COLOUR": "blue", "N": "3"}),
        ("validate", {"COLOUR": "blue", "N": "3", "TOKEN": "hunter22"}),
    ],
)
def test_each_phase_gets_no_more_of_the_services_variables_than_it_needs(
    place: Place, phase: str, given: dict[str, str]
) -> None:
    spec = step_spec(row(phase=phase), place)
    assert {name: spec.environ.get(name) for name in ("COLOUR", "N", "TOKEN") if name in spec.environ} == given
    assert spec.secrets == ("hunter22",)  # masked in the output of all of them
    assert {name: value for name, value in spec.environ.items() if name.startswith("DEPLOY_")} == {
        "DEPLOY_SERVICE": "shop", "DEPLOY_VERSION": "4.2", "DEPLOY_PHASE": phase, "DEPLOY_ENVIRONMENT": "production",
        "DEPLOY_REGION": "us-east-1", "DEPLOY_DIGEST": "abc", "DEPLOY_URL": "http://127.0.0.1:3000/",
        "DEPLOY_CHECKOUT": str(place.checkout),
    }  # fmt: skip


def test_secrets_do_not_show_where_a_place_is_printed(place: Place) -> None:
    assert "hunter22" not in repr(place)
    assert "hunter22" not in repr(step_spec(row(), place))


def test_an_image_has_an_empty_directory_to_run_its_steps_in(data: Path) -> None:
    spec = step_spec(row(), Place(service="shop", version="1", checkout=None))
    assert spec.cwd == data / "deployments" / "shop" / "empty"
    assert list(spec.cwd.iterdir()) == []


def test_the_steps_of_a_phase_come_in_their_order(place: Place) -> None:
    rows = [row(position=2, name="b"), row(position=1, name="c"), row(position=2, name="a"), row(phase="build")]
    assert [spec.name for spec in step_specs(rows, "check", place)] == ["c", "a", "b"]


def test_a_kind_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(ConfigurationError, match=r"no kind of step named 'horoscope'\. Known: command, "):
        step_spec(row(kind="horoscope"), place)


@pytest.mark.parametrize(
    ("outcome", "blocks", "unknown", "verdict"),
    [
        ("passed", True, "block", "passed"),
        ("passed", False, "warn", "passed"),
        ("warned", True, "block", "warned"),
        ("warned", False, "block", "warned"),
        ("failed", True, "warn", "failed"),
        ("failed", False, "block", "warned"),
        ("timed_out", True, "warn", "failed"),
        ("timed_out", False, "block", "warned"),
        ("unknown", True, "block", "failed"),
        ("unknown", True, "warn", "warned"),
        ("unknown", False, "block", "warned"),
        ("unknown", False, "warn", "warned"),
    ],
)
def test_the_steps_policy_decides_what_stops_a_deployment(
    outcome: Any, blocks: bool, unknown: str, verdict: str
) -> None:
    assert judge_outcome(Findings(outcome, "."), blocks, unknown) == verdict


def test_names_that_lead_out_of_the_data_directory_are_refused(data: Path) -> None:
    assert run_folder("shop", "deploy-1", "check", 2, 1) == (
        data / "deployments" / "shop" / "runs" / "deploy-1" / "check-002-1"
    )
    for name in ("..", "../x", "a/b", "", ".hidden"):
        with pytest.raises(Refused):
            run_folder(name, "deploy-1", "check", 0, 1)
        with pytest.raises(Refused):
            checkout_path("shop", name)


def test_kinds_may_be_registered_twice() -> None:
    before = list(kinds)
    pipeline.register_kinds()
    assert list(kinds) == before
    assert kinds.names() == ["command", "mypy", "pytest", "pip_audit", "outdated", "disk_space"]


def test_the_seeded_steps_are_those_of_the_list_and_each_can_be_run(place: Place) -> None:
    rows = seeded.seeded_steps()
    assert [(one["name"], one["kind"], one["blocks"], one["unknown_policy"]) for one in rows] == [
        ("disk space", "disk_space", True, "block"),
        ("type check", "mypy", True, "warn"),
        ("test suite", "pytest", True, "warn"),
        ("security audit", "pip_audit", True, "warn"),
        ("outdated dependencies", "outdated", False, "warn"),
    ]
    assert len(step_specs(rows, "check", place)) == 5
    for one in rows:
        PipelineStep(**one).clean_fields(exclude=["service"])


def really(spec: StepSpec, folder: Path) -> Findings:
    runner.begin(spec, folder)
    seen = ended(folder)
    return read_step(spec.kind, runner.output_tail(folder, 4 << 20), seen)


def test_a_toy_projects_tests_are_really_run_and_counted(place: Place, checkout: Path, folder: Path) -> None:
    (checkout / "test_toy.py").write_text("def test_a(): pass\ndef test_b(): assert 1 == 2\n")
    command = "env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {python} -m pytest -q"
    found = really(step_spec(row(kind="pytest", command=command), place), folder)
    assert (found.outcome, found.summary) == ("failed", "1 passed, 1 failed: test_toy.py::test_b")
    assert {name: found.numbers[name] for name in ("passed", "failed", "errors", "skipped")} == {
        "passed": 1, "failed": 1, "errors": 0, "skipped": 0
    }  # fmt: skip


@pytest.mark.faults
def test_an_audit_without_a_network_really_cannot_tell(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    found = really(step_spec(row(kind="pip_audit", command=""), place), folder)
    assert found.outcome == "unknown"
    assert "ProxyError" in found.summary
    assert judge_outcome(found, True, "warn") == "warned"
    assert judge_outcome(found, True, "block") == "failed"


def test_free_space_is_really_measured(place: Place, folder: Path, tmp_path: Path) -> None:
    free = steps.step_spec(row(kind="disk_space", command="1000000GB"), place)
    found = really(free, folder)
    assert found.outcome == "failed"
    assert found.summary.endswith(f"GB are free at {place.checkout}, and 1e+06 GB are wanted: free some space.")
    found = really(step_spec(row(kind="disk_space", command="1kB /"), place), tmp_path / "another")
    assert found.outcome == "passed"
    assert found.numbers["free_gb"] > 0


def test_a_fetch_is_read_like_any_step() -> None:
    from deployments.pipeline.base import StepSeen

    said = 'git init\n{"digest": "0123456789abcdef0123456789abcdef01234567", "files": 3, "bytes": 1500000}\n'
    found = read_step("fetch", said, StepSeen(running=False, exit_code=0))
    assert (found.outcome, found.summary) == ("passed", "3 files, 1.5 MB, 0123456789abcdef012.")
    assert Fetched(**found.numbers) == Fetched("0123456789abcdef0123456789abcdef01234567", 3, 1_500_000)
