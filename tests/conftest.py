"""Fixtures that every test may use: this worker's Redis, private Redis servers to hurt, free ports, Chromium."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis

from tests import harness, needs
from tests.docker_engine import docker_engine
from tests.ports import find_free_port

__all__ = ["docker_engine"]

# A busy machine is no bug: how long an example takes says nothing here. What must be fast is in benchmarks/.
hypothesis.settings.register_profile("zantara", deadline=None)
hypothesis.settings.load_profile("zantara")


def pytest_configure() -> None:
    """Passwords are hashed at once in the tests' own process; what it starts hashes as ever."""
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]


_FORMS = "its forms and dialogs ask nothing of the database that the pages beside, which run on both, do not ask"
_CALLS = "it calls functions whose own tests run on both"
_STORE = "what it judges are files in a store; the rows that it writes are written by tests that run on both"
#: Files and folders whose tests touch the SQL database and say nothing more about it on PostgreSQL, and why.
SQLITE_IS_ENOUGH = {
    "api/test_problems.py": _CALLS,
    "api/test_scopes.py": _CALLS,
    "backups/admin/test_actions.py": _CALLS,
    "backups/admin/test_lost_key.py": _FORMS,
    "backups/admin/test_plans.py": _FORMS,
    "backups/admin/test_sources.py": _FORMS,
    "backups/admin/test_targets.py": _FORMS,
    "backups/admin/test_wizard.py": _FORMS,
    "backups/cli": _CALLS,
    "backups/kit/test_recovery_line.py": "it makes lines of text",
    "backups/proof/test_ladder.py": _STORE,
    "console/test_base.py": _FORMS,
    "console/test_people.py": _FORMS,
    "deployments/cli": _CALLS,
    "identity/test_token_endpoint.py": "it reads one user, as Django's own log-in does",
    "ratelimits/shedding/test_row.py": _FORMS,
    "ratelimits/test_admin_form.py": _FORMS,
    "ratelimits/test_decorators.py": "what is limited is counted in Redis",
    "schedules/test_admin.py": _FORMS,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that touch the SQL database are marked, so that a second pass can run them on PostgreSQL."""
    here = Path(__file__).parent
    for item in items:
        names = getattr(item, "fixturenames", ())
        if not ({"db", "transactional_db", "django_db_setup"} & set(names) or item.get_closest_marker("django_db")):
            continue
        inside = item.path.relative_to(here)
        if not any(str(place) in SQLITE_IS_ENOUGH for place in (inside, *inside.parents)):
            item.add_marker(pytest.mark.database)


def pytest_collection_finish() -> None:
    """What was loaded and collected stays: the collector of garbage need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """SQLite tests use a file, as the real thing does: an in-memory database has no second connection."""
    from django.conf import settings

    database = settings.DATABASES["default"]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    if database["ENGINE"].endswith("sqlite3"):
        database.setdefault("TEST", {})["NAME"] = str(Path(os.environ["ZANTARA_TEST_ROOT"]) / f"test-{worker}.sqlite3")
    else:
        database.setdefault("TEST", {})["NAME"] = f"test_zantara_{worker}"


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """The servers and folders of a run are thrown away whole; dropping a database would wait for every thread's
    connection to it, those of an event loop's executor among them."""
    return True


@pytest.fixture
def redis_url() -> str:
    """This worker's own Redis, emptied."""
    url = os.environ["ZANTARA_REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


class PrivateRedis:
    """A Redis server of one test, which may kill, freeze, thaw and start it again."""

    def __init__(self, folder: Path, *extra: str) -> None:
        self.folder, self._extra = folder, extra
        self.socket_path = folder / "redis.sock"
        self.url = f"unix://{self.socket_path}?db=0"
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] = harness.start_redis(self.folder, *self._extra)[0]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **options)

    def close(self) -> None:
        if self._process.poll() is None:
            self.thaw()
            self.kill()


@pytest.fixture
def redis_server_factory() -> Iterator[Callable[..., PrivateRedis]]:
    """Make private Redis servers; they are gone after the test."""
    servers: list[PrivateRedis] = []
    with tempfile.TemporaryDirectory(prefix="zt-redis-") as root:

        def make(*extra: str) -> PrivateRedis:
            folder = Path(root) / str(len(servers))
            folder.mkdir()
            servers.append(PrivateRedis(folder, *extra))
            return servers[-1]

        yield make
        for server in servers:
            server.close()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    return find_free_port


@pytest.fixture(scope="session")
def chromium() -> str:
    """Chromium's path; browser tests are left out where it is not installed."""
    return needs.command("chromium", "chromium-browser", "google-chrome", package="chromium")
