"""A Django project that knows nothing of us is protected by following the docs' five lines alone."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from controlplane.identity.tokens import issue
from controlplane.kernel.local_secrets import secret_file
from ratelimits.decision import BUILT_IN, PolicySet
from ratelimits.limiter.publication import publish

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protect-your-service.md"

URLS = """
from django.http import HttpResponse
from django.urls import path


def plain(request):
    return HttpResponse("plain")


async def swift(request):
    return HttpResponse("swift")


urlpatterns = [path("plain", plain), path("swift", swift), path("livez", plain), path("readyz", swift)]
"""

SESSION = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Group, User

user = User.objects.create_user("carla", password="a long pass phrase")
user.groups.add(*[Group.objects.create(name=name) for name in ("CEO", "Book club")])
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print("session:" + session.session_key)
"""


def documented_lines() -> list[str]:
    """The fenced block of the section “Five lines”."""
    block = re.search(r"## Five lines\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@dataclass
class Project:
    """A fresh project in a folder of its own, with its own database and users."""

    folder: Path
    environment: dict[str, str]

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def tables(self) -> set[str]:
        with contextlib.closing(sqlite3.connect(self.folder / "db.sqlite3")) as connection:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def protect(project: Project, values: dict[str, str]) -> None:
    """Append the documented lines; of them only the values marked “yours” are changed."""
    lines = documented_lines()
    marked = [line for line in lines if line.endswith("# yours")]
    assert [line.split(" = ")[0] for line in marked] == list(values)
    for line in marked:
        name = line.split(" = ")[0]
        lines[lines.index(line)] = f"{name} = {values[name]!r}"
    settings = project.folder / "shop" / "settings.py"
    settings.write_text(settings.read_text() + "\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("foreign")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ZANTARA_") and name != "DJANGO_SETTINGS_MODULE"
    }
    made = Project(folder, {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"})
    command = [sys.executable, "-m", "django", "startproject", "shop", str(folder)]
    subprocess.run(command, check=True, env=made.environment, timeout=60)
    (folder / "shop" / "urls.py").write_text(URLS)
    made.manage("migrate", "--verbosity", "0")
    made.before = made.tables()  # type: ignore[attr-defined]
    protect(
        made,
        {
            "ZANTARA_REDIS_URL": os.environ["ZANTARA_REDIS_URL"],
            "ZANTARA_JWT_SECRET_FILE": str(secret_file("jwt_secret")),
            "ZANTARA_LIMITS_SECRET_FILE": str(secret_file("limits_secret")),
        },
    )
    with (folder / "shop" / "settings.py").open("a") as settings:
        settings.write("ZANTARA_LIMITS_TIMEOUT_SECONDS = 20.0\n")  # counts are exact on a busy machine too
    return made


@dataclass
class Served:
    url: str
    log: Path

    def get(self, path: str, *, role: str | None = None, **options: Any) -> httpx2.Response:
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {issue('alice', role, 600)}"
        return httpx2.get(self.url + path, headers=headers, trust_env=False, verify=False, timeout=20, **options)


@contextlib.contextmanager
def serving(project: Project, interface: str) -> Iterator[Served]:
    from tests.ports import find_free_port
    from tests.zantara.conftest import stop, wait_for

    port, log = find_free_port(), project.folder / f"{interface}.log"
    command = [
        sys.executable, "-m", "granian", "--interface", interface, "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", f"shop.{interface[:4]}:application",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/livez", process, log)
        yield Served(f"http://127.0.0.1:{port}", log)
    finally:
        stop(process)


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def _running(request: pytest.FixtureRequest, project: Project) -> Iterator[Served]:
    with serving(project, request.param) as served:
        yield served


@pytest.fixture
def served(_running: Served, redis_url: str) -> Served:
    """The protected project under WSGI and under ASGI, with fresh counters."""
    return _running


def test_the_docs_have_five_lines() -> None:
    assert len(documented_lines()) == 5
    assert len([line for line in documented_lines() if line.endswith("# yours")]) == 3


@pytest.mark.parametrize(
    ("role", "limit"),
    [
        (None, 100),
        ("External", 50),
        ("Setup Team Lead", 200),
        ("CEO", 500),
        ("AI Bridge/Tech Lead", 1000),
        ("Gardener", 100),
    ],
)
@pytest.mark.parametrize("path", ["/plain", "/swift"])
def test_each_role_has_its_limit(served: Served, role: str | None, limit: int, path: str) -> None:
    response = served.get(path, role=role)
    assert (response.status_code, response.text) == (200, path[1:])
    assert response.headers["ratelimit-limit"] == str(limit)
    assert response.headers["ratelimit-remaining"] == str(limit - 1)
    assert f";q={limit};w=900" in response.headers["ratelimit-policy"]


def test_exactly_the_limit_gets_through_over_plain_and_async_views(served: Served) -> None:
    statuses = [served.get(path, role="External").status_code for _ in range(28) for path in ("/plain", "/swift")]
    assert statuses == [200] * 50 + [429] * 6


def test_a_denial_says_why_and_when_to_come_back(served: Served) -> None:
    for _ in range(50):
        assert served.get("/swift", role="External").status_code == 200
    for path in ("/plain", "/swift"):
        denied = served.get(path, role="External")
        assert denied.status_code == 429
        assert denied.headers["content-type"] == "application/problem+json"
        assert denied.headers["cache-control"] == "no-store"
        document = denied.json()
        assert set(document) == {
            "type", "title", "status", "detail", "violated-policies", "retry_after", "decision_id",
        }  # fmt: skip
        assert document["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
        assert (document["status"], document["detail"]) == (429, "Too many requests for external user")
        assert document["violated-policies"] == ["external"]
        assert denied.headers["retry-after"] == str(document["retry_after"])
        assert 0 < document["retry_after"] <= 915
        assert denied.headers["ratelimit-remaining"] == "0"
        assert denied.headers["ratelimit"].startswith('"external";r=0;t=')
        assert document["decision_id"]
    assert served.get("/plain", role="CEO").status_code == 200


def test_health_is_never_limited(served: Served) -> None:
    for _ in range(52):
        last = served.get("/plain", role="External")
    assert last.status_code == 429
    for path in ("/livez", "/readyz"):
        answer = served.get(path, role="External")
        assert answer.status_code == 200
        assert "ratelimit-limit" not in answer.headers


@pytest.mark.parametrize("path", ["/plain", "/swift"])
def test_a_forged_token_is_refused_and_never_becomes_anonymous(
    served: Served, redis_client: redis.Redis, path: str
) -> None:
    forged = issue("alice", "CEO", 600)[:-4] + "AAAA"
    refused = served.get(path, headers={"Authorization": f"Bearer {forged}"})
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert served.get(path).headers["ratelimit-remaining"] == "99"


def test_a_user_with_a_session_has_the_role_of_his_group(served: Served, project: Project) -> None:
    key = _session_of_carla(project)
    for path in ("/plain", "/swift"):
        response = served.get(path, headers={"Cookie": f"sessionid={key}"})
        assert (response.status_code, response.headers["ratelimit-limit"]) == (200, "500")


def test_an_edit_binds_the_next_request(served: Served, redis_client: redis.Redis) -> None:
    assert served.get("/plain", role="External").headers["ratelimit-limit"] == "50"
    edited = tuple(replace(one, requests=3) if one.role == "External" else one for one in BUILT_IN.policies)
    assert publish(redis_client, PolicySet(version=7, policies=edited)).status == "in_force"
    for remaining in ("1", "0"):
        answer = served.get("/swift", role="External")
        assert answer.headers["ratelimit-limit"] == "3"
        assert answer.headers["ratelimit-remaining"] == remaining
    assert served.get("/plain", role="External").status_code == 429


def test_nothing_of_ours_is_in_its_database(project: Project) -> None:
    assert "No changes detected" in project.manage("makemigrations", "--check", "--dry-run")
    project.manage("migrate", "--verbosity", "0")
    assert project.tables() == project.before  # type: ignore[attr-defined]
    assert not [name for name in project.tables() if re.search("ratelimit|zantara|controlplane|historical", name)]


def test_the_system_checks_run_there_and_find_nothing(project: Project) -> None:
    assert "System check identified no issues (0 silenced)" in project.manage("check", "--fail-level", "WARNING")


def test_the_system_checks_find_a_middleware_in_the_wrong_place(project: Project, tmp_path: Path) -> None:
    (project.folder / "shop" / "wrong.py").write_text("from .settings import *\nMIDDLEWARE = MIDDLEWARE[::-1]\n")
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--settings", "shop.wrong"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "zantara.E102" in done.stderr


_sessions: dict[Path, str] = {}


def _session_of_carla(project: Project) -> str:
    if project.folder not in _sessions:
        printed = project.manage("shell", "--verbosity", "0", "-c", SESSION)
        _sessions[project.folder] = re.findall(r"session:(\w+)", printed)[0]
    return _sessions[project.folder]
