"""The world in which local processes are instances; whatever a test leaves of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.targets.base import InstanceSpec, Seen
from deployments.targets.marks import Mark, read_mark
from deployments.targets.places import Places
from deployments.targets.process import ProcessTarget
from tests.deployments.contracts.target_contract import PROGRAM, SECRET, World


class ProcessWorld(World):
    def __init__(self, folder: Path) -> None:
        self.root, self.checkout = folder / "deployments", folder / "checkout"
        self.checkout.mkdir()
        shutil.copy(PROGRAM, self.checkout / "program.py")
        self.target = ProcessTarget(self.root)

    def settings(self, *arguments: str, **more: Any) -> dict[str, Any]:
        words = " ".join(f"'{word}'" for word in ("-u", "{checkout}/program.py", *arguments))
        return {"command": f"'{sys.executable}' {words}", **more}

    def spec(self, *arguments: str, **more: Any) -> InstanceSpec:
        return InstanceSpec(
            service="shop", release="1.0+a", slot=0, name="shop-1.0+a-0", settings=self.settings(*arguments, **more),
            secret_environ={"TOKEN": SECRET, "EMPTY": ""}, environ={"HERE": "1"}, checkout=self.checkout, generation=3,
        )  # fmt: skip

    def kill(self, seen: Seen) -> None:
        os.kill(seen.handle["pid"], signal.SIGKILL)

    def places(self, spec: InstanceSpec) -> Places:
        return Places(self.root, spec.service)

    def mark(self, spec: InstanceSpec) -> Mark:
        mark = read_mark(self.places(spec).mark(spec.name))
        assert mark is not None
        return mark

    def processes(self) -> list[psutil.Process]:
        """Every process that was started here, keepers and commands, by what its command line names."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and str(self.root.parent) in " ".join(
                    [*process.cmdline(), *process.environ().values()]
                ):
                    found.append(process)
        return found

    def close(self) -> None:
        for path in self.root.glob("*/instances/*.json"):
            if (mark := read_mark(path)) is not None and mark.runs:
                if mark.keeper_lives:
                    for process in psutil.Process(mark.keeper[0]).children(recursive=True):
                        with suppress(psutil.Error):
                            process.kill()
                mark.kill()


@pytest.fixture
def process_world(tmp_path: Path) -> Iterator[ProcessWorld]:
    world = ProcessWorld(tmp_path)
    yield world
    world.close()
