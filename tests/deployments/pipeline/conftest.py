"""Steps that are really run: short programs in a folder of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import pipeline
from deployments.pipeline import folder as files
from deployments.pipeline import runner
from deployments.pipeline.base import StepSeen, StepSpec

pipeline.register_kinds()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZANTARA_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a step; what runs in it at the end of the test is killed."""
    place = tmp_path / "step"
    yield place
    if place.exists():
        runner.kill(place)
        until(lambda: not files.is_held(place), "the shepherd did not end")


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., StepSpec]:
    def make(*argv: str, **more: Any) -> StepSpec:
        more.setdefault("cwd", tmp_path)
        return StepSpec(name="a step", kind="command", argv=argv, **{"timeout_seconds": 60, **more})

    return make


def until(is_so: Callable[[], Any], otherwise: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
    return found


def ended(folder: Path, handle: dict[str, Any] | None = None) -> StepSeen:
    """The step's end, awaited."""

    def look() -> StepSeen | None:
        seen = runner.look(folder, handle)
        return None if seen.running else seen

    seen = until(look, "the step did not end")
    assert isinstance(seen, StepSeen)
    return seen


def runs(pid: int) -> bool:
    return files.is_alive(files.mark_of(pid))


def number_in(path: Path) -> int:
    """The number that a program writes there, awaited."""
    return int(until(lambda: path.exists() and path.read_text().strip(), f"nothing was written to {path}"))


def everything_in(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


def command_lines() -> str:
    found = []
    for pid in psutil.pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
