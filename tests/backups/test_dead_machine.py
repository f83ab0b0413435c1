"""The machine is gone. With its recovery kit, its recovery key and the bucket, another one has everything again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backups.sources.chroma_client import Server
from backups.sources.pg_connect import Address
from tests.backups.servers import chroma, postgres
from tests.backups.servers.s3 import S3Server
from tests.conftest import PrivateRedis

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]

FURNISH = """
import json, os
from django.contrib.auth.models import User
from backups.models import BackupPlan, BackupSource, StorageTarget
given = json.loads(os.environ["GIVEN"])
target = StorageTarget(name="bucket", prefix="zantara", **given["target"])
target.save()
plan = BackupPlan(name="everything", target=target, keep_last=7)
plan.save()
for name, (kind, settings, secrets) in given["sources"].items():
    from backups.sources.base import kinds
    source = BackupSource(name=name, kind=kind, settings=kinds.get(kind).clean(settings, secrets), secrets=secrets)
    source.save()
    plan.sources.add(source)
User.objects.create_user("keeper", "keeper@example.org", "the keeper's password")
"""

TELL = """
import json
from django.contrib.auth.models import User
from backups.models import BackupPlan, BackupRecord, BackupSource, StorageTarget
print(json.dumps({
    "users": sorted(User.objects.values_list("username", flat=True)),
    "password": User.objects.filter(username="keeper", password__startswith="").exists()
    and User.objects.get(username="keeper").check_password("the keeper's password"),
    "plans": sorted(BackupPlan.objects.values_list("name", flat=True)),
    "sources": sorted(BackupSource.objects.filter(plans__name="everything").values_list("name", flat=True)),
    "secrets": [source.secrets for source in BackupSource.objects.filter(name="files")],
    "targets": {target.name: target.secret_access_key for target in StorageTarget.objects.all()},
    "records": {record.name: record.state for record in BackupRecord.objects.all()},
}))
"""


class Machine:
    """An installation with a data directory and an SQLite database of its own; every act is a process."""

    def __init__(self, root: Path, redis_url: str) -> None:
        self.data = root / "data"
        self.data.mkdir(parents=True)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ZANTARA_", "AWS_"))},
            "ZANTARA_DATA_DIR": str(self.data),
            "ZANTARA_REDIS_URL": redis_url,
            "ZANTARA_LOG_LEVEL": "ERROR",
            "PYTHONWARNINGS": "ignore",
        }

    def manage(self, *words: str, expect: tuple[int, ...] = (0,), **environ: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=ROOT, env={**self.environ, **environ}, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode in expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def tell(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.manage("shell", "--no-imports", "-c", TELL).splitlines()[-1])
        return found


@pytest.fixture
def live(
    tmp_path: Path,
    postgres_database: Callable[[], Address],
    chroma_server: Server,
    redis_server_factory: Callable[..., PrivateRedis],
) -> Live:
    return Live(tmp_path / "live", postgres_database(), chroma_server, redis_server_factory())


class Live:
    """The data of the services: a tree of files, SQLite, PostgreSQL, Redis and Chroma."""

    def __init__(self, folder: Path, database: Address, vectors: Server, memory: PrivateRedis) -> None:
        self.folder, self.database, self.vectors, self.memory = folder, database, vectors, memory
        self.tree, self.sqlite = folder / "tree", folder / "shop.sqlite3"

    def sources(self) -> dict[str, tuple[str, dict[str, Any], dict[str, str]]]:
        return {
            "own-database": ("sqlite", {"path": "control-plane"}, {}),
            "accounts": ("userdata", {}, {}),
            "files": ("files", {"base": str(self.tree), "patterns": "**"}, {"note": "only with the fields key"}),
            "shop": ("sqlite", {"path": str(self.sqlite)}, {}),
            "people": ("postgres", {"database": self.database.database, **self.database.parameters}, {}),
            "sessions": ("redis", {"url": self.memory.url}, {}),
            "vectors": ("chroma", {"url": self.vectors.url}, {}),
        }

    def fill(self) -> None:
        (self.tree / "deep").mkdir(parents=True)
        (self.tree / "app.env").write_text("MODE=good\n")
        (self.tree / "deep" / "random").write_bytes(os.urandom(3_000_000))
        with sqlite3.connect(self.sqlite) as shop:
            shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
            shop.executemany("INSERT INTO orders (what) VALUES (?)", [(f"order {n}",) for n in range(500)])
        shop.close()
        postgres.fill(self.database)
        with self.memory.client() as client:
            client.mset({f"key:{n}": f"value {n}" for n in range(300)})
            client.rpush("list", *range(50))
        chroma.put(self.vectors, chroma.make(self.vectors, "notes"), [f"note-{n}" for n in range(120)])

    def contents(self) -> dict[str, Any]:
        with sqlite3.connect(self.sqlite) as shop:
            orders = shop.execute("SELECT * FROM orders ORDER BY id").fetchall()
        shop.close()
        with self.memory.client() as client:
            keys = {key: client.dump(key) for key in sorted(client.keys("*"))}
        tables = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t"
        return {
            "files": {
                str(path.relative_to(self.tree)): path.read_bytes() for path in self.tree.rglob("*") if path.is_file()
            },
            "orders": orders,
            "people": [
                postgres.run(self.database, tables.format(name)) for name in ("people", "readings", "empty", "tall")
            ],
            "keys": keys,
            "vectors": chroma.contents(self.vectors),
        }

    def wipe(self, fresh_database: Callable[[], None]) -> None:
        """As on a machine that was just set up: the servers are there, and empty."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.tree.mkdir()
        with sqlite3.connect(self.sqlite):
            pass
        fresh_database()
        with self.memory.client() as client:
            client.flushall()
        with chroma.Chroma(self.vectors) as client:
            for collection in client.collections():
                client.delete(collection["name"])


@pytest.fixture
def fresh_database(live: Live, postgres_server: Address) -> Callable[[], None]:
    """Drop the service's database and make it anew, empty."""

    def make() -> None:
        name = live.database.database
        with postgres_server.connect() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')

    return make


def test_kit_key_and_bucket_are_enough_to_have_everything_again(
    tmp_path: Path,
    live: Live,
    fresh_database: Callable[[], None],
    rclone_server: S3Server,
    redis_server_factory: Callable[..., PrivateRedis],
) -> None:
    bucket, safe = rclone_server.make_bucket(), tmp_path / "safe"
    safe.mkdir()
    kit, key = str(safe / "kit.zip.age"), str(safe / "recovery_key.txt")

    # A machine lives: it backs up everything, its kit and its recovery key are kept elsewhere.
    live.fill()
    before = live.contents()
    old = Machine(tmp_path / "old", redis_server_factory().url)
    old.manage("bootstrap")
    given = {"target": rclone_server.target_fields(bucket), "sources": live.sources()}
    old.manage("shell", "--no-imports", "-c", FURNISH, GIVEN=json.dumps(given))
    saved = json.loads(old.manage("backup", "run", "--plan", "everything", "--here", "--json"))
    assert saved["state"] == "committed"
    old.manage("backup", "kit", "--output", kit)
    shutil.move(old.data / "secrets" / "recovery_key.txt", key)
    known = old.tell()

    # It is gone, with all that its services held.
    shutil.rmtree(old.data)
    live.wipe(fresh_database)
    assert live_is_empty(live)

    # Another machine: nothing of ours but kit, key and bucket.
    new = Machine(tmp_path / "new", redis_server_factory().url)
    new.manage("bootstrap")
    assert known["plans"] != new.tell()["plans"]
    rebuilt = json.loads(new.manage("backup", "rebuild-catalogue", "--kit", kit, "--identity", key, "--json"))
    assert rebuilt["targets"]["bucket"]["added"] == [saved["name"]]
    assert rebuilt["targets"]["bucket"]["unreadable"] == {}

    # Its own database first, while nothing runs; with it come plans, sources, people and credentials.
    asked = ("--identity", key, "--confirm", saved["name"], "--reason", "the machine is gone")
    new.manage("restore", saved["name"], "--offline", "--target", "bucket", *asked)
    told = new.tell()
    assert told["users"] == known["users"]
    assert told["password"] is True
    for what in ("plans", "sources", "secrets", "targets"):
        assert told[what] == known[what], what
    assert told["records"][saved["name"]] == "committed"

    # Then what its services held.
    parts = [word for name in live.sources() if name != "own-database" for word in ("--part", name)]
    restored = json.loads(
        new.manage("restore", saved["name"], *parts, "--here", "--without-safety-backup", *asked, "--json")
    )
    assert restored["state"] == "done", restored["error"]
    assert live.contents() == before

    # And it goes on where the old one was: the next backup lies beside the first and is proven.
    again = json.loads(new.manage("backup", "run", "--plan", "everything", "--here", "--json"))
    assert again["state"] == "committed"
    assert again["name"] != saved["name"]
    own = str(new.data / "secrets" / "drill_identity.txt")
    new.manage("backup", "drill", again["name"], "--here", "--identity", own)
    new.manage("backup", "drill", saved["name"], "--here", "--identity", key)


def live_is_empty(live: Live) -> bool:
    with live.memory.client() as client, sqlite3.connect(live.sqlite) as shop:
        tables = shop.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        left = client.dbsize()
    shop.close()
    rows = postgres.run(live.database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")[0][0]
    return not (tables or left or rows or any(live.tree.iterdir()) or chroma.contents(live.vectors))
