from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path

import pytest

from controlplane.kernel import clock
from controlplane.kernel.env import Env
from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.local_secrets import NAMES, ensure_local_secrets, secret_file
from controlplane.kernel.redis_urls import LONGEST_SOCKET_PATH, broker_url, default_redis_url, socket_path
from controlplane.kernel.registry import Registry


def test_secrets_are_made_once_long_and_private(tmp_path: Path) -> None:
    env = Env({"ZANTARA_DATA_DIR": str(tmp_path / "data")})
    ensure_local_secrets(env)
    first = {name: secret_file(name, env).read_text() for name in NAMES}
    ensure_local_secrets(env)
    assert {name: secret_file(name, env).read_text() for name in NAMES} == first
    assert len(set(first.values())) == len(NAMES)
    assert all(len(value) >= (44 if name == "fields_key" else 50) for name, value in first.items())
    folder = tmp_path / "data" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)


def test_a_lenient_umask_does_not_open_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ensure_local_secrets(Env({"ZANTARA_DATA_DIR": str(tmp_path)}))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["ZANTARA_SECRET_KEY", "ZANTARA_SECRET_KEY_FILE"])
def test_an_installation_that_brings_its_own_secrets_gets_none_of_ours(tmp_path: Path, name: str) -> None:
    ensure_local_secrets(Env({"ZANTARA_DATA_DIR": str(tmp_path), name: "x"}))
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_agree_on_the_secrets(tmp_path: Path) -> None:
    script = (
        "import sys; from controlplane.kernel.local_secrets import *; sys.stdin.readline(); ensure_local_secrets();"
        "print(','.join(secret_file(n).read_text() for n in NAMES))"
    )
    environment = {"PATH": os.environ["PATH"], "ZANTARA_DATA_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda process: process.communicate("go\n", timeout=30)[0], processes))
    assert len(set(answers)) == 1
    assert answers[0].count(",") == len(NAMES) - 1
    assert sorted(path.name for path in (tmp_path / "secrets").iterdir()) == sorted(NAMES)


def test_what_a_killed_process_left_behind_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / f".jwt_secret.{os.getpid()}").write_text("half")
    ensure_local_secrets(Env({"ZANTARA_DATA_DIR": str(tmp_path)}))
    assert len((tmp_path / "secrets" / "jwt_secret").read_text()) == 64


def test_a_data_directory_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        ensure_local_secrets(Env({"ZANTARA_DATA_DIR": str(tmp_path / "file" / "data")}))
    assert "ZANTARA_DATA_DIR" in caught.value.remedy


def test_the_socket_lies_in_the_data_directory_where_its_path_is_short_enough() -> None:
    room = LONGEST_SOCKET_PATH - len("/run/redis.sock")
    fits, too_long = Path("/" + "d" * (room - 1)), Path("/" + "d" * room)
    assert socket_path(fits) == fits / "run" / "redis.sock"
    elsewhere = socket_path(too_long)
    assert not elsewhere.is_relative_to(too_long)
    assert len(os.fsencode(elsewhere)) <= LONGEST_SOCKET_PATH
    assert socket_path(too_long) == elsewhere
    assert socket_path(Path("/" + "e" * room)) != elsewhere


def test_celery_gets_the_same_server_in_its_own_spelling() -> None:
    assert broker_url("redis://:pw@h:6379/2") == "redis://:pw@h:6379/2"
    assert broker_url("unix:///srv/run/redis.sock?db=3") == "redis+socket:///srv/run/redis.sock?virtual_host=3"
    assert broker_url("unix:///srv/run/redis.sock") == "redis+socket:///srv/run/redis.sock?virtual_host=0"
    assert default_redis_url(Path("/a b")) == "unix:///a%20b/run/redis.sock?db=0"


def test_a_registry_knows_its_entries_in_order_and_refuses_a_second_of_one_name() -> None:
    registry = Registry[int]("number")
    registry.add("two", 2)
    registry.add("one", 1)
    assert registry.add("two", 2) == 2
    assert (list(registry), len(registry), "one" in registry, registry.get("one")) == ([2, 1], 2, True, 1)
    with pytest.raises(ConfigurationError, match="Two different entries named 'two' for number"):
        registry.add("two", 22)
    with pytest.raises(ConfigurationError, match=r"no number named 'three'\. Known: one, two\."):
        registry.get("three")
    assert registry.get("two") == 2


def test_the_clocks_are_aware_and_never_go_back() -> None:
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()
