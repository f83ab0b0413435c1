"""What each kind of step makes of what its tool really said. The texts are recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from controlplane.kernel.errors import Refused
from deployments.pipeline import kinds
from deployments.pipeline.base import Findings, StepSeen
from deployments.pipeline.readers import disk_space

RECORDED = Path(__file__).parent / "recorded"


def read(kind: str, name: str, exit_code: int, reason: str = "") -> Findings:
    output = f"$ the command\n{(RECORDED / f'{name}.txt').read_text()}"
    return kinds.get(kind).read(output, StepSeen(running=False, exit_code=exit_code, reason=reason))


def numbers(**of: int) -> dict[str, int]:
    return of


@pytest.mark.parametrize(
    ("name", "exit_code", "outcome", "summary", "found"),
    [
        ("mypy_clean", 0, "passed", "No errors in 2 files.", numbers(errors=0, files=2)),
        (
            "mypy_errors", 1, "failed",
            "3 errors in 2 files; the first: b.py:1 Incompatible types in assignment (expression has type "
            '"str", variable has type "int") [assignment]',
            numbers(errors=3, files=2, checked=2),
        ),
        (
            "mypy_syntax", 2, "failed",
            "2 errors in 1 file; the first: a.py:1 Expected a parameter or the end of the parameter list [syntax]",
            numbers(errors=2, files=1),
        ),
        (
            "mypy_empty", 2, "unknown",
            "mypy did not say what it found: There are no .py[i] files in directory '.'", {},
        ),
        (
            "mypy_usage", 2, "unknown",
            "mypy did not say what it found: mypy: error: Missing target module, package, files, or command.", {},
        ),
    ],
)  # fmt: skip
def test_mypy_is_read(name: str, exit_code: int, outcome: str, summary: str, found: dict[str, int]) -> None:
    assert read("mypy", name, exit_code) == Findings(outcome, summary, found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "exit_code", "outcome", "summary", "found"),
    [
        ("pytest_passed", 0, "passed", "1 passed.", numbers(passed=1, failed=0, errors=0, skipped=0)),
        ("pytest_long", 0, "passed", "1 passed.", numbers(passed=1, failed=0, errors=0, skipped=0)),
        (
            "pytest_mixed", 1, "failed",
            "2 passed, 1 failed, 1 skipped, 1 error: test_a.py::test_bad, test_a.py::test_err",
            numbers(passed=2, failed=1, errors=1, skipped=1, xfailed=1, warnings=1),
        ),
        (
            "pytest_collection", 2, "failed", "0 passed, 1 error: test_e.py",
            numbers(passed=0, failed=0, errors=1, skipped=0),
        ),
        (
            "pytest_none", 5, "unknown", "No test was found in the checkout.",
            numbers(passed=0, failed=0, errors=0, skipped=0),
        ),
        (
            "pytest_skipped", 0, "unknown", "No test ran: 0 passed, 1 skipped.",
            numbers(passed=0, failed=0, errors=0, skipped=1),
        ),
        ("pytest_usage", 4, "unknown", "pytest did not run (exit code 4): unrecognized arguments: --nope", {}),
    ],
)  # fmt: skip
def test_pytest_is_read(name: str, exit_code: int, outcome: str, summary: str, found: dict[str, int]) -> None:
    assert read("pytest", name, exit_code) == Findings(outcome, summary, found)  # type: ignore[arg-type]


def test_a_summary_with_hours_in_it_is_read_as_well() -> None:
    said = "= 1204 passed, 3 skipped, 12 subtests passed in 3725.10s (1:02:05) =\n"
    found = kinds.get("pytest").read(said, StepSeen(running=False, exit_code=0))
    assert (found.outcome, found.numbers["passed"], found.numbers["subtests_passed"]) == ("passed", 1204, 12)


def test_a_known_vulnerability_fails_with_names_and_what_mends_it() -> None:
    found = read("pip_audit", "audit_vulnerable", 1)
    assert found.outcome == "failed"
    assert found.summary == (
        "2 known vulnerabilities: jinja2 3.1.2 (CVE-2024-22195, CVE-2024-56326; mended in 3.1.3, 3.1.5)"
    )
    assert found.numbers == {
        "vulnerabilities": 2, "packages": 4, "skipped": 0,
        "vulnerable": {"jinja2": ["CVE-2024-22195", "CVE-2024-56326"]},
    }  # fmt: skip


def test_an_audit_that_knew_every_package_passes() -> None:
    found = read("pip_audit", "audit_clean", 0)
    assert (found.outcome, found.summary) == ("passed", "No known vulnerability in 1 package.")


def test_a_package_that_was_not_looked_up_is_unknown_although_the_tool_is_content() -> None:
    found = read("pip_audit", "audit_skipped", 0)
    assert found.outcome == "unknown"
    assert found.summary == "4 packages were not looked up: jinja2, markupsafe, pip, setuptools."
    assert (found.numbers["vulnerabilities"], found.numbers["skipped"]) == (0, 4)


@pytest.mark.parametrize("name", ["audit_unreachable", "audit_unreachable_osv"])
def test_an_audit_without_its_source_is_unknown_and_no_failure(name: str) -> None:
    found = read("pip_audit", name, 1)
    assert found.outcome == "unknown"
    assert found.summary.startswith("The audit came to no answer (exit code 1): requests.exceptions.")
    assert len(found.summary) <= 480


def test_a_report_that_breaks_off_is_unknown() -> None:
    said = (RECORDED / "audit_vulnerable.txt").read_text()[:200]
    assert kinds.get("pip_audit").read(said, StepSeen(running=False, exit_code=1)).outcome == "unknown"


def test_a_vulnerability_counts_also_beside_a_skipped_package() -> None:
    said = (
        '{"dependencies": [{"name": "ours", "skip_reason": "not on PyPI"}, {"name": "old", "version": "1", "vulns": '
        '[{"id": "CVE-1", "fix_versions": []}]}], "fixes": []}'
    )
    found = kinds.get("pip_audit").read(said, StepSeen(running=False, exit_code=1))
    assert found.outcome == "failed"
    assert found.summary == "1 known vulnerability: old 1 (CVE-1; no release mends it yet)"


def test_newer_releases_of_dependencies_are_a_warning() -> None:
    found = read("outdated", "outdated_some", 0)
    assert found == Findings(
        "warned",
        "3 packages have newer releases: Jinja2 3.1.2 → 3.1.6, pip 23.2.1 → 26.3, setuptools 65.5.0 → 84.2.1",
        {"outdated": 3},
    )


def test_an_empty_list_passes_unless_the_index_was_not_reached() -> None:
    assert read("outdated", "outdated_none", 0) == Findings(
        "passed", "Every dependency is the newest.", {"outdated": 0}
    )
    found = read("outdated", "outdated_unreachable", 0)  # pip says [] and exit code 0
    assert (found.outcome, found.summary) == ("unknown", "pip could not tell: the package index was not reached")


@pytest.mark.parametrize(
    ("free", "outcome", "summary"),
    [
        (80_000_000_000, "passed", "80.0 GB are free at /srv."),
        (5_000_000_000, "passed", "5.0 GB are free at /srv."),
        (4_200_000_000, "failed", "4.2 GB are free at /srv, and 5 GB are wanted: free some space."),
    ],
)
def test_free_space_is_read(free: int, outcome: str, summary: str) -> None:
    said = (
        f'$ the command\n{{"free_bytes": 900000000000, "least_bytes": 5000000000, "path": "/big"}}\n'
        f'{{"free_bytes": {free}, "least_bytes": 5000000000, "path": "/srv"}}\n'
    )
    found = kinds.get("disk_space").read(said, StepSeen(running=False, exit_code=0 if outcome == "passed" else 1))
    assert (found.outcome, found.summary) == (outcome, summary)
    assert found.numbers == {"free_gb": round(free / 1e9, 2), "least_gb": 5.0}


def test_a_disk_that_is_not_there_is_unknown() -> None:
    found = kinds.get("disk_space").read("/nowhere: No such file or directory\n", StepSeen(running=False, exit_code=2))
    assert found == Findings("unknown", "The free space could not be read: /nowhere: No such file or directory")


@pytest.mark.parametrize(
    ("output", "exit_code", "outcome", "summary"),
    [
        ("$ make\nbuilt 3 files\n\n", 0, "passed", "built 3 files"),
        ("$ make\n", 0, "passed", "It ended well."),
        ("$ make\nmake: *** No rule\n", 2, "failed", "It ended with exit code 2: make: *** No rule"),
        ("$ make\n", 1, "failed", "It ended with exit code 1, and said nothing."),
    ],
)
def test_any_other_command_is_read_by_its_exit_code(output: str, exit_code: int, outcome: str, summary: str) -> None:
    found = kinds.get("command").read(output, StepSeen(running=False, exit_code=exit_code))
    assert found == Findings(outcome, summary, {"exit_code": exit_code})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["command", "mypy", "pytest", "pip_audit", "outdated", "disk_space"])
@pytest.mark.parametrize(
    ("seen", "outcome", "summary"),
    [
        (StepSeen(running=True), "unknown", "It still runs."),
        (
            StepSeen(running=False, gone=True), "unknown",
            "It vanished without an end: the machine was restarted, or somebody killed it.",
        ),
        (
            StepSeen(running=False, exit_code=-15, timed_out=True, reason="It took longer than 9 s and was stopped."),
            "timed_out", "It took longer than 9 s and was stopped.",
        ),
        (StepSeen(running=False, exit_code=0, reason="It was stopped."), "failed", "It was stopped."),
        (
            StepSeen(running=False, exit_code=-9), "failed",
            "It was killed by SIGKILL: perhaps this machine's memory was short.",
        ),
    ],
)  # fmt: skip
def test_other_ends_mean_the_same_for_every_kind(kind: str, seen: StepSeen, outcome: str, summary: str) -> None:
    found = kinds.get(kind).read("Success: no issues found in 2 source files\n1 passed in 1s\n[]\n", seen)
    assert (found.outcome, found.summary) == (outcome, summary)


@pytest.mark.parametrize(("kind", "tool"), [("mypy", "mypy"), ("pytest", "pytest"), ("outdated", "pip")])
def test_a_tool_that_is_not_installed_tells_nothing_of_the_release(kind: str, tool: str) -> None:
    said = (RECORDED / "no_module.txt").read_text().replace("pytest", tool)
    found = kinds.get(kind).read(said, StepSeen(running=False, exit_code=1))
    assert found.outcome == "unknown"
    assert found.summary.startswith(f"{tool} is not installed where this step ran: add it")


def test_a_module_that_the_tests_miss_is_their_failure_and_not_pytests() -> None:
    found = read("pytest", "pytest_collection", 2)
    assert found.outcome == "failed"


def test_a_pip_audit_that_is_not_found_tells_nothing_of_the_release() -> None:
    reason = "pip-audit was not found: install it, or give its whole path in the step's command."
    found = kinds.get("pip_audit").read(f"[{reason}]\n", StepSeen(running=False, exit_code=127, reason=reason))
    assert found.outcome == "unknown"
    other = reason.replace("pip-audit", "./audit.sh")
    found = kinds.get("pip_audit").read(f"[{other}]\n", StepSeen(running=False, exit_code=127, reason=other))
    assert (found.outcome, found.summary) == ("failed", other)


def test_a_summary_fits_its_column() -> None:
    found = kinds.get("command").read("x" * 5000, StepSeen(running=False, exit_code=0))
    assert len(found.summary) == 480
    assert found.summary.endswith("…")


@pytest.mark.parametrize(
    ("kind", "first"),
    [("mypy", "{python}"), ("pytest", "{python}"), ("pip_audit", "pip-audit"), ("outdated", "{python}")],
)
def test_a_kind_brings_its_own_command_and_takes_the_operators(kind: str, first: str) -> None:
    assert kinds.get(kind).argv("  ")[0] == first
    assert list(kinds.get(kind).argv("tool 'two words' {checkout}")) == ["tool", "two words", "{checkout}"]


def test_disk_space_takes_a_size_and_paths() -> None:
    argv = kinds.get("disk_space").argv
    assert list(argv("")) == [sys.executable, "-I", str(disk_space.PROGRAM), "5000000000", "."]
    assert list(argv("20GB /srv /var"))[3:] == ["20000000000", "/srv", "/var"]
    assert list(argv("/srv"))[3:] == ["5000000000", "/srv"]
    with pytest.raises(Refused, match="'much' is not a size"):
        argv("much /srv")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("", "The step has no command. Give a program and its arguments."),
        ("   ", "The step has no command. Give a program and its arguments."),
        ("echo 'open", "The command cannot be read: No closing quotation. Close every quotation mark."),
        ("make && make install", "'&&' is for a shell, and no shell reads the command. Make it two steps"),
        ("cat x | wc", "'|' is for a shell"),
        ("make > log", "'>' is for a shell"),
        ("make; make install", "'make;' is for a shell"),
        ("A=1 make", "A=… before a program is for a shell, and no shell reads the command. Write: env A=1 make"),
    ],
)
def test_what_only_a_shell_understands_is_refused(command: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        kinds.get("command").argv(command)
    assert str(refused.value).startswith(why)


def test_an_argument_may_hold_what_a_shell_would_read() -> None:
    assert kinds.get("command").argv("python -c 'import a; print(1 > 0)'") == ("python", "-c", "import a; print(1 > 0)")
