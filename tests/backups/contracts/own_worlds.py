"""The worlds of the kinds that need no server of their own, and Redis."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import connection

from backups.sources.base import Source
from backups.sources.files import FilesSource
from backups.sources.logs import LogsSource
from backups.sources.redis import RedisSource
from backups.sources.sqlite import SqliteSource
from backups.sources.userdata import UserDataSource

from .worlds import World, tree, world


def without_staging(base: Path) -> dict[str, Any]:
    return {name: entry for name, entry in tree(base).items() if not name.startswith(".zantara-restore-")}


class FilesWorld(World):
    exact = False  # files that came since stay

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir()
        (base / "conf").mkdir()
        (base / ".env").write_text("A=1\n")
        (base / ".env").chmod(0o600)
        (base / "conf" / "app.ini").write_text("[app]\n")
        (base / "conf" / "large").write_bytes(os.urandom(3_000_000))
        (base / "conf" / "empty").write_bytes(b"")
        (base / "conf" / "current").symlink_to("app.ini")
        for path in base.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (1_700_000_000, 1_700_000_000))

    def source(self) -> Source:
        settings = {"base": str(self.base), "patterns": [".env", "conf"]}
        return FilesSource("files", FilesSource.clean(settings, {}), {})

    def state(self) -> Any:
        return without_staging(self.base)

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        (self.base / "conf" / "app.ini").write_text("[abb]\n")
        return "conf/app.ini"

    def remove(self) -> str:
        (self.base / "conf" / "current").unlink()
        return "conf/current"

    def add(self) -> str:
        (self.base / "conf" / "new").write_text("new")
        return "conf/new"

    def write_once(self, number: int) -> None:
        new = self.base / "conf" / f"busy-{number % 3}.new"
        new.write_text(f"{number}")
        new.rename(new.with_suffix(".ini"))

    def empty(self) -> None:
        shutil.rmtree(self.base / "conf")
        (self.base / ".env").unlink()


@world("files")
def _files(request: pytest.FixtureRequest) -> World:
    return FilesWorld(request.getfixturevalue("tmp_path") / "config")


class LogsWorld(FilesWorld):
    restores_in_place = False

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir()
        (base / "web.log").write_text("first line\n" * 1000)
        (base / "web.log.1").write_text("older line\n" * 1000)
        (base / "work.log.2.gz").write_bytes(os.urandom(100_000))

    def source(self) -> Source:
        return LogsSource("logs", LogsSource.clean({"base": str(self.base)}, {}), {})

    def restored_state(self, token: str) -> Any:
        return without_staging(self.base.with_name(f"{self.base.name}-restored") / token)

    def change(self) -> str:
        (self.base / "web.log.1").write_text("other line\n" * 1000)
        return "web.log.1"

    def remove(self) -> str:
        (self.base / "work.log.2.gz").unlink()
        return "work.log.2.gz"

    def add(self) -> str:
        (self.base / "beat.log").write_text("new\n")
        return "beat.log"

    def write_once(self, number: int) -> None:
        with (self.base / "web.log").open("a") as log:
            log.write(f"line {number}\n")

    def empty(self) -> None:
        shutil.rmtree(self.base)


@world("logs")
def _logs(request: pytest.FixtureRequest) -> World:
    return LogsWorld(request.getfixturevalue("tmp_path") / "logs")


class SqliteWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._run("PRAGMA journal_mode=WAL")
        self._run("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total REAL, raw BLOB)")
        self._run("CREATE TABLE customers (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._run("CREATE INDEX by_customer ON orders (customer)")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(
                "INSERT INTO orders (customer, total, raw) VALUES (?, ?, ?)",
                [(f"c{n}", n / 7, bytes([n % 256])) for n in range(2000)],
            )
            connection.executemany("INSERT INTO customers VALUES (?)", [(f"c{n}",) for n in range(50)])

    def _run(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=20)) as connection, connection:
            connection.execute(sql)

    def source(self) -> Source:
        return SqliteSource("db", SqliteSource.clean({"path": str(self.path)}, {}), {})

    def state(self) -> Any:
        with closing(sqlite3.connect(self.path, timeout=20)) as connection:
            return list(connection.iterdump())

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        self._run("UPDATE orders SET total = total + 1 WHERE id = 77")
        return "orders"

    def remove(self) -> str:
        self._run("DELETE FROM customers WHERE name = 'c7'")
        return "customers"

    def add(self) -> str:
        self._run("INSERT INTO orders (customer) VALUES ('new')")
        return "orders"

    def write_once(self, number: int) -> None:
        self._run(f"INSERT INTO orders (customer, total) VALUES ('busy', {number})")

    def empty(self) -> None:
        self.path.unlink()


@world("sqlite")
def _sqlite(request: pytest.FixtureRequest) -> World:
    return SqliteWorld(request.getfixturevalue("tmp_path") / "shop.sqlite3")


class RedisWorld(World):
    """Every type, small and large, in two databases; ``zantara:restore…`` are the marks of a restore at work."""

    exact = True

    def __init__(self, server: Any) -> None:
        self.url = server.url
        client = self.client()
        client.set("greeting", "hello")
        client.set(b"raw\xff\x00", bytes(range(256)))
        client.set("session", "expires", px=3_600_000)
        client.rpush("list", *range(300))
        client.sadd("set", *range(300), *(f"member-{n}" for n in range(300)))
        client.sadd("large-set", *range(5000))
        client.zadd("zset", {f"member-{n}": n / 7 for n in range(500)})
        client.hset("hash", mapping={f"field-{n}": n for n in range(500)})
        client.xadd("stream", {"kind": "one"}, id="1-1")
        client.xgroup_create("stream", "group", id="0")
        with client.pipeline() as pipeline:
            for number in range(1500):
                pipeline.set(f"key:{number}", number)
            pipeline.execute()
        client.close()
        other = self.client(3)
        other.set("other", "database")
        other.close()

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis.from_url(self.url.replace("db=0", f"db={database}"))

    def source(self) -> Source:
        return RedisSource("cache", RedisSource.clean({"url": self.url}, {}), {})

    def state(self) -> Any:
        found = {}
        for database in (0, 3):
            with self.client(database) as client:
                for key in client.keys("*"):
                    if not key.startswith(b"zantara:restore"):
                        found[database, key] = (self._value(client, key), client.pexpiretime(key))
        return found

    @staticmethod
    def _value(client: redis.Redis, key: bytes) -> Any:
        read = {
            b"string": client.get,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"hash": client.hgetall,
            b"stream": lambda key: (client.xrange(key), client.xinfo_groups(key)),
        }
        return read[client.type(key)](key)

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        with self.client() as client:
            client.srem("large-set", 4711)
            client.sadd("large-set", "4711x")
        return "large-set"

    def remove(self) -> str:
        with self.client() as client:
            client.delete("key:77")
        return "key:77"

    def add(self) -> str:
        with self.client(3) as client:
            client.set("new", 1)
        return "database 3: key new"

    def write_once(self, number: int) -> None:
        with self.client() as client, client.pipeline() as pipeline:
            pipeline.set(f"busy:{number}", number).incr("count").execute()

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()


@world("redis")
def _redis(request: pytest.FixtureRequest) -> World:
    return RedisWorld(request.getfixturevalue("redis_server_factory")())


class UserDataWorld(World):
    exact = False  # rows that came since stay

    def __init__(self, *, exactly: bool) -> None:
        self.exact = exactly
        self.User, self.Group = get_user_model(), apps.get_model("auth.Group")
        self.Profile = apps.get_model("ratelimits.RateLimitProfile")
        self.empty()
        Permission = apps.get_model("auth.Permission")
        admins = self.Group.objects.create(name="Administrators")
        admins.permissions.set(Permission.objects.filter(codename__startswith="view_")[:5])
        for number in range(20):
            user = self.User.objects.create(username=f"user-{number}", email=f"u{number}@example.test")
            user.groups.add(admins)
            self.Profile.objects.create(role=f"role-{number}", requests=10 + number)

    def source(self) -> Source:
        return UserDataSource("people", UserDataSource.clean({"exact": self.exact}, {}), {})

    def state(self) -> Any:
        return {
            "users": {
                user.username: (user.email, user.password, user.date_joined, sorted(g.name for g in user.groups.all()))
                for user in self.User.objects.prefetch_related("groups")
            },
            "groups": {
                group.name: sorted(permission.codename for permission in group.permissions.all())
                for group in self.Group.objects.all()
            },
            "profiles": dict(self.Profile.objects.values_list("pk", "requests")),
        }

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        profile = self.Profile.objects.get(role="role-7")
        profile.requests = 777
        profile.save()
        return f"ratelimits.ratelimitprofile #{profile.pk}"

    def remove(self) -> str:
        self.User.objects.get(username="user-3").delete()
        return "auth.user user-3"

    def add(self) -> str:
        self.User.objects.create(username="later")
        return "auth.user later"

    def write_once(self, number: int) -> None:
        try:
            self.Profile.objects.create(role=f"busy-{number}")
            self.User.objects.create(username=f"busy-{number}")
        finally:
            connection.close()

    def empty(self) -> None:
        self.User.objects.all().delete()
        self.Group.objects.all().delete()
        for profile in self.Profile.objects.all():
            profile.delete()


_DATABASE = pytest.mark.django_db(transaction=True)


@world("userdata", _DATABASE)
def _userdata(request: pytest.FixtureRequest) -> World:
    request.getfixturevalue("redis_url")
    return UserDataWorld(exactly=False)


@world("userdata-exact", _DATABASE)
def _userdata_exact(request: pytest.FixtureRequest) -> World:
    request.getfixturevalue("redis_url")
    return UserDataWorld(exactly=True)
