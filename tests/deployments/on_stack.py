"""A running stack whose service ``zantara`` is deployed, broken and steered: for tests and benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tests.deployments.load import Load
from tests.stack import ROOT, Stack

TECH_LEAD = "AI Bridge/Tech Lead"
SERVICE = "zantara"


class OnStack:
    """What a test does to the deployments of one stack, and what it reads of them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    # --- acts --------------------------------------------------------------------------------

    def python(self, code: str) -> str:
        """Run a few lines with the control plane's Django in the stack's environment."""
        done = self.stack.manage("shell", "--no-imports", "-v", "0", "-c", code)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def plan(self, stages: Sequence[tuple[float, int]], **fields: Any) -> None:
        """Give the service these stages (percent, seconds) and these settings; no pipeline, no backup."""
        self.python(
            "from decimal import Decimal\n"
            "from deployments.models import Service, DeploymentStage, PipelineStep\n"
            f"service = Service.objects.get(name={SERVICE!r})\n"
            f"fields = {{'backup_plan': None, **{fields!r}}}\n"
            "for name, value in fields.items(): setattr(service, name, value)\n"
            "service.save()\n"
            "for row in [*service.stages.all(), *service.steps.all()]: row.delete()\n"
            f"for percentage, seconds in {list(stages)!r}:\n"
            "    DeploymentStage(service=service, percentage=Decimal(str(percentage)), bake_seconds=seconds).save()\n"
        )

    def deploy(self, version: str, *arguments: str) -> str:
        """Ask for the sample's present code as that version; the deployment's name."""
        done = self.stack.manage(
            "deploy", SERVICE, "--version", version, "--source", str(ROOT), "--json", "--skip-pipeline", *arguments
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout)["name"])

    def steer(self, verb: str, name: str, reason: str = "a test") -> None:
        done = self.stack.manage("deploy", verb, name, "--reason", reason, "--json")
        assert done.returncode == 0, done.stdout + done.stderr

    def chaos(self, release: str, **order: float) -> None:
        """Break the instances of one release, whether they run yet or not."""
        code = (
            "import django; django.setup()\n"
            "from examples.zantara.chaos import Chaos, orders\n"
            f"orders().give(Chaos(**{order!r}))\n"
        )
        environ = {**self.stack.environ, "DJANGO_SETTINGS_MODULE": "examples.zantara.settings"}
        environ |= {"ZANTARA_RELEASE": release, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def load(self, rate: float, *, path: str = "/zantara.unified", connections: int = 8) -> Load:
        """Requests of so many different Tech Leads that no limit is met."""
        code = (
            "from controlplane.identity.tokens import issue\n"
            f"print(*[issue(f'load-{{n}}', {TECH_LEAD!r}, 3000) for n in range(400)])"
        )
        tokens = self.python(code).split()
        return Load(self.stack.sample_port, path, rate=rate, connections=connections, tokens=tokens)

    # --- what is there -----------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """The deployment as ``manage.py deploy status --json`` tells it."""
        done = self.stack.manage("deploy", "status", name, "--json")
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read the stack's own database, whichever it is, without starting a Django."""
        url = self.stack.environ.get("ZANTARA_DATABASE_URL", "")
        if url.startswith("postgres"):
            import psycopg

            with psycopg.connect(url) as connection:
                return list(connection.execute(query.replace("?", "%s"), parameters))
        import sqlite3

        connection = sqlite3.connect(self.stack.data_dir / "controlplane.sqlite3", timeout=20)
        try:
            return list(connection.execute(query, parameters))
        finally:
            connection.close()

    def state(self, name: str) -> str:
        ((state,),) = self.rows("SELECT state FROM deployments_deployment WHERE name = ?", name)
        return str(state)

    def wait_for_state(self, name: str, *states: str, seconds: float) -> str:
        """The first of these states that it is seen in."""
        deadline = time.monotonic() + seconds
        while (state := self.state(name)) not in states:
            if time.monotonic() > deadline:
                told = self.rows(
                    "SELECT from_state, to_state, reason FROM deployments_deploymentevent e "
                    "JOIN deployments_deployment d ON d.id = e.subject_id WHERE d.name = ? ORDER BY e.id",
                    name,
                )
                raise AssertionError(f"{name} is {state} after {seconds:g} s:\n" + "\n".join(map(str, told)))
            time.sleep(0.1)
        return state

    def instances(self) -> list[dict[str, Any]]:
        """Name, release, pid of those that are wanted."""
        found = self.rows(
            "SELECT i.name, r.version, i.handle, i.ready_since IS NOT NULL FROM deployments_instance i "
            "JOIN deployments_release r ON r.id = i.release_id WHERE i.stopped_at IS NULL ORDER BY i.name"
        )
        return [
            {"name": name, "release": release, "handle": handle if isinstance(handle, dict) else json.loads(handle),
             "ready": bool(ready)}
            for name, release, handle, ready in found
        ]  # fmt: skip

    def kill(self, pid: int, number: int = 9) -> None:
        with suppress(ProcessLookupError):  # the supervisor ends the rest of a session whose leader died
            os.kill(pid, number)

    def engine_processes(self) -> list[int]:
        """The worker of the queue “engine”, with its pool."""
        from controlplane.embedded import processes

        leader = self.stack.children()["worker-engine"]
        return [process.pid for process in processes.session_members(leader)]

    @staticmethod
    def moment(stored: Any) -> float:
        """Seconds since 1970 of a time as the database gives it: SQLite has a text in UTC."""
        moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
        return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())

    def after(self, stored: Any, moment: float) -> float | None:
        """The time, if there is one and it is later than that moment."""
        at = self.moment(stored) if stored else None
        return at if at is not None and at > moment else None
