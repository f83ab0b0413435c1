"""Each kind, through the real stream into a real store: proven at every level with nothing of its secrets, and restored
to the letter of its one line by stock tools.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups import keys
from backups.manifest import ManifestArtifact
from backups.models import StorageTarget
from backups.proof.ladder import Climb, Ladder
from backups.proof.scratch import scratch_place
from backups.recovery_line import line
from backups.sources import register_kinds
from backups.storage import open_target
from backups.stream import put_expectations, store_stream
from controlplane.kernel import clock
from tests import needs
from tests.backups.contracts import own_worlds, server_worlds  # noqa: F401  (they add their worlds)
from tests.backups.contracts.worlds import MARKS, WORLDS, World, tree
from tests.backups.servers import chroma

FOLDER = "sets/zantara/2026/11/one"
ALL = [pytest.param(name, marks=MARKS[name]) for name in WORLDS]


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory) -> StorageTarget:
    keys.ensure_keys()
    return StorageTarget(name="near", kind="local", path=str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far away: the recovery key and nothing else."""
    keys.ensure_keys()
    found = tmp_path_factory.mktemp("desk")
    shutil.copy(keys.recovery_key_file(), found / "recovery_key.txt")
    return found


def stored(world: World, target: StorageTarget, scratch: Path, **options: Any) -> ManifestArtifact:
    """As the engine does it."""
    register_kinds()
    source, storage = world.source(), open_target(target)
    folder = f"{FOLDER}/{source.name}"
    with source.capture(now=clock.now(), scratch=scratch) as capture:
        kept, captured = store_stream(
            capture.chunks(), storage=storage, folder=folder, recipients=keys.recipients(), level=3,
            finish=capture.finish, interrupt=capture.interrupt, **options,
        )  # fmt: skip
    return ManifestArtifact.of(
        kept, name=source.name, kind=source.kind, position=1, settings=source.settings,
        expectations=put_expectations(storage, folder, captured.expectations, keys.recipients()),
    )  # fmt: skip


def climbed(artifact: ManifestArtifact, target: StorageTarget, level: int) -> Climb:
    identity = keys.identity_from_file(keys.folder() / "drill_identity.txt")
    ladder = Ladder(open_target(target), FOLDER, identity, lambda: scratch_place(1), lambda size: None)
    return ladder.climb(artifact, level)


@pytest.mark.parametrize("name", ALL)
def test_a_kind_is_proven_at_every_level(
    name: str, request: pytest.FixtureRequest, target: StorageTarget, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = WORLDS[name](request)
    artifact = stored(world, target, tmp_path_factory.mktemp("scratch"))
    for level in range(4):
        climb = climbed(artifact, target, level)
        assert not climb.failed, climb.findings
        assert climb.reached == level
    assert climb.restore_seconds is not None
    part = Path(target.path) / FOLDER / artifact.name / "part-00001.age"
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(body)
    assert [climbed(artifact, target, level).failed for level in range(4)] == [False, True, True, True]


# --- the one line -------------------------------------------------------------------------------------


def shell(text: str, folder: Path, **environment: str) -> None:
    for program in ("age", "zstd", "bash"):
        needs.command(program, package=program)
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, capture_output=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr


def carry_out_files(world: Any, text: str, desk: Path) -> None:
    shell(text, desk)
    (desk / "recovery_key.txt").unlink()
    assert tree(desk) == tree(world.base)


def carry_out_sqlite(world: Any, text: str, desk: Path) -> None:
    shell(text, desk)
    (found,) = (path for path in desk.iterdir() if path.name != "recovery_key.txt")
    with closing(sqlite3.connect(found)) as connection:
        assert list(connection.iterdump()) == world.state()


def carry_out_redis(world: Any, text: str, desk: Path) -> None:
    """A server that starts with the file has everything."""
    from tests.harness import start_redis

    shell(text, desk)
    before = world.state()
    assert (desk / "dump.rdb").is_file()
    process, sock = start_redis(desk, "--dbfilename", "dump.rdb")
    try:
        world.url = f"unix://{sock}?db=0"
        assert world.state() == before
    finally:
        process.kill()
        process.wait(10)


def carry_out_postgres(world: Any, text: str, desk: Path) -> None:
    before, empty = world.state(), world.another()
    text = text.replace("NAME_OF_AN_EMPTY_DATABASE", empty.database)
    path = os.pathsep.join([str(needs.postgres_bin()), os.environ["PATH"]])
    parameters = {f"PG{key.upper()}": str(value) for key, value in empty.parameters.items() if key != "dbname"}
    shell(text, desk, PATH=path, **parameters)
    world.address = empty
    assert world.state() | {"databases": []} == before | {"databases": []}  # those say the name


def carry_out_chroma(world: Any, text: str, desk: Path) -> None:
    """Into a server that has lost everything."""
    from backups.sources.chroma_client import Chroma

    before = world.state()
    with Chroma(world.server) as client:
        for collection in client.collections():
            client.delete(collection["name"])
    assert world.state() == {}
    shell(text.replace("http://HOST:8000", world.server.url), desk)
    assert world.state() == before


def carry_out_userdata(world: Any, text: str, desk: Path) -> None:
    """Into the database of a new installation."""
    manage = Path(__file__).parents[3] / "manage.py"
    (desk / "manage.py").write_text(
        f"#!{sys.executable}\nexec(compile(open({str(manage)!r}).read(), 'manage.py', 'exec'))\n"
    )
    (desk / "manage.py").chmod(0o755)
    environment = {
        "ZANTARA_DATABASE_URL": f"sqlite:///{desk}/new.sqlite3", "PYTHONPATH": str(manage.parent),
        "PATH": os.pathsep.join([str(desk), os.environ["PATH"]]), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    shell("manage.py migrate --verbosity 0", desk, **environment)
    shell(text, desk, **environment)
    with closing(sqlite3.connect(desk / "new.sqlite3")) as connection:
        users = {row[0] for row in connection.execute("SELECT username FROM auth_user")}
        profiles = dict(connection.execute("SELECT id, requests FROM ratelimits_ratelimitprofile"))
    state = world.state()
    assert users >= set(state["users"])
    assert profiles.items() >= state["profiles"].items()


def carry_out_memory_vectors(world: Any, text: str, desk: Path) -> None:
    from controlplane.identity.tokens import issue
    from tests.backups.contracts.server_worlds import TECH_LEAD

    before = world.state()
    world.change()
    world.remove()
    world.add()
    assert world.state() != before
    shell(text, desk, TOKEN=issue("tester", TECH_LEAD, 600), SERVICE=world.url)
    assert world.state() == before


LINES: dict[str, Callable[[Any, str, Path], None]] = {
    "files": carry_out_files,
    "logs": carry_out_files,
    "sqlite": carry_out_sqlite,
    "redis": carry_out_redis,
    "postgres": carry_out_postgres,
    "chroma": carry_out_chroma,
    "userdata": carry_out_userdata,
    "userdata-exact": carry_out_userdata,
    "memory_vectors": carry_out_memory_vectors,
}


@pytest.mark.parametrize("name", ALL)
def test_the_one_line_of_a_kind_restores_it(
    name: str,
    request: pytest.FixtureRequest,
    target: StorageTarget,
    tmp_path_factory: pytest.TempPathFactory,
    desk: Path,
) -> None:
    world = WORLDS[name](request)
    if name == "chroma":  # its line makes one request per record
        chroma.drop(world.server, world.first, [f"id-{n}" for n in range(50, 1203)])  # type: ignore[attr-defined]
    if name == "postgres":
        world.another = request.getfixturevalue("postgres_database")  # type: ignore[attr-defined]
    artifact = stored(world, target, tmp_path_factory.mktemp("scratch"), part_bytes=100_000)
    LINES[name](world, line(artifact, target, f"{FOLDER}/{artifact.name}"), desk)


def test_every_kind_has_its_line_tested() -> None:
    assert set(LINES) == set(WORLDS)
