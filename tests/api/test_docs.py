"""The pages: the scopes that there are, and the CI jobs' script, run as written against a running server."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from controlplane.api.scopes import SCOPES
from controlplane.kernel import clock, transitions
from deployments.machines import DEPLOYMENT
from deployments.models import Deployment, DeploymentEvent, Release, Service
from tests import needs
from tests.console.people import person
from tests.deployments.factories import make_release, make_service, serve

from .conftest import token_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_documented_scopes_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    table = re.findall(r"^\| `([a-z]+:[a-z]+)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert table == [
        (scope.name, scope.what, ", ".join(f"`{name}`" for name in scope.permissions) or "–")
        for scope in SCOPES.values()
    ]


def test_both_jobs_run_the_script_that_the_page_shows() -> None:
    jobs = blocks("yaml")
    assert len(jobs) == 2
    for job in jobs:
        assert re.search(r'\bsh ci/deploy\.sh shop "\$[A-Z_]+" "\$[A-Z_/$]+\.git" "\$[A-Z_]+"$', job, re.MULTILINE)
        assert "CI_KEY: " in job
    assert len(blocks("sh")) == 1
    assert subprocess.run(["sh", "-n"], input=blocks("sh")[0], text=True, check=False).returncode == 0


# --- the script ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(transactional_db: None, redis_url: str) -> Service:
    service = make_service("shop")
    serve(service, make_release(service, "1.0"))
    return service


@pytest.fixture
def job(shop: Service, live_server: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the page's script as a job would."""
    needs.command("curl", package="curl")
    needs.command("jq", package="jq")
    script = tmp_path / "deploy.sh"
    script.write_text(blocks("sh")[0])
    text = token_for(person("superuser"), "deployments:read", "deployments:write")[1]

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(script), *arguments], capture_output=True, text=True, check=False, timeout=60,
            env={
                "PATH": os.environ["PATH"], "ZANTARA_URL": live_server.url, "ZANTARA_TOKEN": text, "CI_POLL": "0.1",
                **environment,
            },
        )  # fmt: skip

    return run


@pytest.fixture
def worker() -> Iterator[Callable[..., None]]:
    """Somebody who moves the one deployment through these states as soon as it is there, and ends."""
    threads: list[threading.Thread] = []

    def begin(*states: str, **last: Any) -> None:
        def work() -> None:
            deadline = clock.monotonic() + 30
            while not Deployment.objects.exists() and clock.monotonic() < deadline:
                threading.Event().wait(0.02)
            for number, state in enumerate(states):
                changes = last if number == len(states) - 1 else {}
                deployment = Deployment.objects.get()
                transitions.advance(
                    deployment, state, machine=DEPLOYMENT, event=DeploymentEvent, changes=changes or None
                )
            connection.close()

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join(30)


WAY = ("queued", "starting", "shifting", "baking")
SOURCE = ("https://git.example.org/shop.git", "0123abcd")


def test_a_job_deploys_and_ends_well(job: Any, worker: Any) -> None:
    worker(*WAY, "validating", "finishing", "succeeded")
    ran = job("shop", "2.0", *SOURCE, CI_REASON="run 7")
    deployment = Deployment.objects.get()
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("deploying shop 2.0: http://")
    assert lines[0].endswith(f"/api/v1/deployments/{deployment.name}")
    assert lines[-1].startswith("succeeded, ")
    assert (deployment.reason, deployment.trigger) == ("run 7", "api")
    release = Release.objects.get(version="2.0")
    assert (release.source_kind, release.source, release.ref) == ("git", *SOURCE)


def test_a_job_fails_where_the_release_was_taken_back_and_says_why(job: Any, worker: Any) -> None:
    worker(*WAY, "rolling_back", "rolled_back", error="5 of 100 requests failed.")
    ran = job("shop", "2.0", *SOURCE)
    assert (ran.returncode, ran.stderr) == (3, "5 of 100 requests failed.\n")


def test_a_job_that_is_held_or_waits_too_long_ends_with_5(job: Any, worker: Any) -> None:
    assert job("shop", "2.0", *SOURCE, CI_TIMEOUT="0").returncode == 5
    worker(*WAY, "paused", pause_reason="Too little traffic.")
    held = job("shop", "2.0", *SOURCE)  # the same key: the same deployment
    assert (held.returncode, held.stderr) == (5, "Too little traffic.\n")
    assert Deployment.objects.count() == 1


def test_a_job_that_is_refused_says_why(job: Any, shop: Service) -> None:
    shop.enabled = False
    shop.save()
    ran = job("shop", "2.0", *SOURCE)
    assert ran.returncode == 2
    assert "refused: shop is switched off. Enable the service.\n" in ran.stderr
    unknown = job("mall", "2.0", *SOURCE)
    assert "refused: There is no service mall.  \n".replace("  \n", " \n") in unknown.stderr
    assert Deployment.objects.count() == 0
