"""Rules of the house that no linter knows, held against the whole tree."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("controlplane", "ratelimits", "backups", "deployments", "examples")


def product_files() -> Iterator[Path]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in product_files()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_no_command_goes_through_a_shell() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in product_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            any(k.arg == "shell" and getattr(k.value, "value", False) for k in node.keywords)
            or ast.unparse(node.func) in {"os.system", "os.popen"}
        )
    ]
    assert calls == []


def test_nobody_updates_rows_behind_the_back_of_history_or_beat() -> None:
    pattern = re.compile(
        r"(RateLimitProfile|PeriodicTasks?|CrontabSchedule|IntervalSchedule)\b[^\n]*\.(update|bulk_update|bulk_create)\("
    )
    hits = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in product_files()
        for line in path.read_text().splitlines()
        if pattern.search(line) and "update_changed" not in line
    ]
    assert hits == []


def test_each_management_command_is_run_by_a_test() -> None:
    commands = {p.stem for p in ROOT.glob("*/management/commands/*.py") if p.stem != "__init__"}
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    assert {c for c in commands if not re.search(rf"""["']{c}["']""", tests)} == set()


def test_only_the_console_base_imports_the_admin_theme() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in product_files()
        if re.search(r"^\s*(from|import) unfold", path.read_text(), re.MULTILINE)
    }
    assert importers == {"controlplane/console/base.py"}


def test_every_setting_that_the_code_reads_is_documented() -> None:
    read = {
        name
        for path in (*product_files(), ROOT / "Makefile")
        for name in re.findall(r"\bZANTARA_[A-Z0-9_]+\b", path.read_text())
        if not name.endswith("_") and not name.startswith(("ZANTARA_TEST_", "ZANTARA_X"))
    }
    page = (ROOT / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"\bZANTARA_[A-Z0-9_]+\b", page))
    secrets_in_files = {f"{name}_FILE" for name in documented}
    assert read - documented - secrets_in_files == set()


def _links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_version_is_the_same_everywhere() -> None:
    from controlplane import __version__

    assert re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == __version__  # type: ignore[index]
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == __version__  # type: ignore[index]


def test_locked_requirements_are_pinned_with_hashes_and_name_no_index() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        text = lock.read_text()
        assert "://" not in text
        assert "--index-url" not in text
        pins = re.findall(r"^[A-Za-z0-9].*", text, re.MULTILINE)
        assert pins
        assert [pin for pin in pins if "==" not in pin or not pin.endswith("\\")] == []


def test_each_direct_dependency_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[A-Za-z0-9_.-]+", r)[0].lower().replace("_", "-") for r in requirements}  # type: ignore[index]

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    runtime = names(project["project"]["dependencies"])
    embedded = runtime | names(project["project"]["optional-dependencies"]["embedded"])
    everything = embedded | names(project["dependency-groups"]["dev"])
    assert runtime - locked("runtime.txt") == set()
    assert embedded - locked("embedded.txt") == set()
    assert everything - locked("dev.txt") == set()


def test_the_ci_script_is_executable_and_valid() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_pages_and_places_that_the_code_sends_people_to_exist() -> None:
    """``docs="docs/page.md#anchor"`` anywhere, and ``docs_link("anchor")`` of the backups' pages."""
    named = set()
    for path in product_files():
        text = path.read_text()
        named |= set(re.findall(r'docs="docs/([a-z-]+\.md)#([a-z0-9-]+)"', text))
        if path.is_relative_to(ROOT / "backups" / "admin"):
            named |= {("backups.md", anchor) for anchor in re.findall(r'docs_link\("([a-z0-9-]+)"\)', text)}
    assert len(named) > 6
    marked = {
        page: anchors(ROOT / "docs" / page) | set(re.findall(r'id="([^"]+)"', (ROOT / "docs" / page).read_text()))
        for page, _ in named
    }
    assert {f"{page}#{anchor}" for page, anchor in named if anchor not in marked[page]} == set()


def test_what_is_left_out_on_postgresql_is_there_and_says_why() -> None:
    from tests.conftest import SQLITE_IS_ENOUGH

    assert [place for place in SQLITE_IS_ENOUGH if not (ROOT / "tests" / place).exists()] == []
    assert all(SQLITE_IS_ENOUGH.values())
