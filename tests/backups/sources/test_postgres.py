"""What is particular to PostgreSQL: what a drill notices, how the password travels, and how databases are exchanged."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backups.errors import CannotRestore
from backups.sources import pg_capture, pg_connect, pg_expect
from backups.sources.base import Place
from backups.sources.pg_capture import PostgresCapture
from backups.sources.pg_connect import Address, Programs, address_of, installed
from backups.sources.postgres import PostgresSource
from controlplane.kernel import clock
from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable
from tests.backups.servers.postgres import fill, run, source_of

from .taking import drained, pieces, said, taken

Make = Callable[[], Address]


@pytest.fixture
def live(postgres_database: Make) -> Address:
    address = postgres_database()
    fill(address)
    return address


def drill(source: PostgresSource, data: bytes, expectations: dict[str, Any], folder: Path) -> list[Any]:
    return source.drill(pieces(data), expectations, Place(folder, "drill"))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("SELECT lo_put((SELECT max(oid) FROM pg_largeobject_metadata), 0, 'x')", "Large objects"),
        ("SELECT lo_unlink(max(oid)) FROM pg_largeobject_metadata", "Large objects: 2 expected, 1 there."),
        ("SELECT setval('tickets', 101)", "Sequence public.tickets is at 101, expected at 102."),
        ("DROP INDEX readings_at", "relations of kind I: 1 expected, 0 there."),
        ("DROP TRIGGER noted ON people", "triggers: 1 expected, 0 there."),
        ("ALTER TABLE people DROP CONSTRAINT people_name_key", "constraints: 2 expected, 1 there."),
        ("DROP TABLE empty", "Table public.empty is missing (0 rows)."),
        ("CREATE TABLE more (id int)", "Table public.more is there and was not expected."),
        ("ALTER TABLE people RENAME height TO length", "Table public.people has other columns than it had."),
        ("UPDATE people SET photo = NULL WHERE id = 3", "public.people: all 502 rows are there, but some are changed."),
        ("UPDATE people SET name = '' WHERE name IS NULL", "Table public.people"),
        ("DELETE FROM people WHERE id = 3", "public.people: 502 rows expected, 501 there (1 missing)."),
        ("INSERT INTO empty VALUES (NULL)", "public.empty: 0 rows expected, 1 there (1 added)."),
        (
            "UPDATE people SET span = (SELECT span FROM people WHERE id = 6) WHERE id = 5; "
            "UPDATE people SET span = interval '5 days 10 hours' WHERE id = 6",
            "Table public.people",
        ),
    ],
)
def test_every_difference_is_named(live: Address, tmp_path: Path, change: str, finding: str) -> None:
    _, expectations = taken(source_of(live), tmp_path)
    for statement in change.split("; "):
        run(live, statement)
    with live.connect() as connection:
        pg_expect.pin(connection)
        assert finding in said(pg_expect.compare(expectations, connection))


@pytest.mark.parametrize("at_once", [True, False])
def test_the_expectations_are_of_the_dumps_own_snapshot(live: Address, tmp_path: Path, at_once: bool) -> None:
    with PostgresCapture(live, at_once=at_once) as capture:
        run(live, "DELETE FROM people WHERE id < 100")
        run(live, "UPDATE readings SET value = 0")
        run(live, "CREATE TABLE later (id int)")
        run(live, "SELECT nextval('tickets')")
        data, expectations = drained(capture)
    assert {table["name"]: table["rows"] for table in expectations["tables"]}["people"] == 502
    assert said(drill(source_of(live), data, expectations, tmp_path)) == ""


def test_a_table_cannot_be_emptied_or_altered_under_the_dump(live: Address, tmp_path: Path) -> None:
    with PostgresCapture(live) as capture:
        for statement in ("TRUNCATE people", "ALTER TABLE people ALTER id TYPE bigint"):
            with live.connect() as connection:
                connection.execute("SET lock_timeout = '50ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    connection.execute(statement)
        data, expectations = drained(capture)
    assert said(drill(source_of(live), data, expectations, tmp_path)) == ""


def test_settings_of_the_database_do_not_shape_the_digests(live: Address, tmp_path: Path) -> None:
    _, before = taken(source_of(live), tmp_path)
    name = sql.Identifier(live.database)
    with live.connect() as connection:
        for setting in ("timezone = 'Asia/Tokyo'", "datestyle = 'German'", "intervalstyle = 'iso_8601'",
                        "extra_float_digits = -10", "bytea_output = 'escape'", "search_path = 'pg_temp'"):  # fmt: skip
            connection.execute(sql.SQL("ALTER DATABASE {} SET " + setting).format(name))  # type: ignore[arg-type]
    _, after = taken(source_of(live), tmp_path)
    assert after["tables"] == before["tables"]


def test_columns_that_move_when_they_are_restored_are_no_difference(postgres_database: Make, tmp_path: Path) -> None:
    address = postgres_database()
    run(address, "CREATE TABLE parent (a int)")
    run(address, "CREATE TABLE child (own text) INHERITS (parent)")
    run(address, "ALTER TABLE parent ADD COLUMN late int DEFAULT 5")
    run(address, "INSERT INTO child VALUES (1, 'x', 2), (NULL, NULL, NULL)")
    run(address, "ALTER TABLE child DROP COLUMN own")
    run(address, "CREATE TABLE nothing ()")
    run(address, "INSERT INTO nothing DEFAULT VALUES")
    data, expectations = taken(source_of(address), tmp_path)
    assert said(source_of(address).inspect(pieces(data), expectations)) == ""
    assert said(drill(source_of(address), data, expectations, tmp_path)) == ""


def test_extensions_are_made_anew_and_a_missing_one_is_named(postgres_database: Make, tmp_path: Path) -> None:
    address = postgres_database()
    run(address, "CREATE EXTENSION hstore")
    run(address, "CREATE TABLE bags (content hstore)")
    run(address, "INSERT INTO bags VALUES ('a=>1, b=>2')")
    data, expectations = taken(source_of(address), tmp_path)
    assert expectations["facts"]["extensions"] == {"hstore": "1.8"}
    assert said(drill(source_of(address), data, expectations, tmp_path)) == ""
    expectations["facts"]["extensions"]["nonesuch"] = "1.0"
    with pytest.raises(Unavailable, match="lacks the extensions nonesuch"):
        drill(source_of(address), data, expectations, tmp_path)


def test_a_locale_that_is_not_here_is_a_warning_only(live: Address, tmp_path: Path) -> None:
    data, expectations = taken(source_of(live), tmp_path)
    expectations["facts"] |= {"collate": "xx_XX.utf8", "ctype": "xx_XX.utf8"}
    findings = drill(source_of(live), data, expectations, tmp_path)
    assert said(findings) == ""
    assert "The locale xx_XX.utf8 is not on this server" in said(findings, "warn")


def test_the_password_is_in_no_argument_and_no_message(live: Address, tmp_path: Path) -> None:
    source = source_of(live, password="s3cr3t-word")
    with source.capture(now=clock.now(), scratch=tmp_path) as capture:
        assert isinstance(capture, PostgresCapture)
        assert capture._program is not None
        proc = Path("/proc") / str(capture._program.process.pid)
        assert "s3cr3t-word" not in (proc / "cmdline").read_text()
        assert "PGPASSWORD=s3cr3t-word" in (proc / "environ").read_text()
        drained(capture)
    assert "s3cr3t-word" not in repr(address_of(source.settings, source.secrets))


@pytest.mark.parametrize(
    ("settings", "said_"),
    [
        ({"url": "postgresql://me:word@host/db"}, "Take the password out"),
        ({"url": "postgresql://host/db?fallback_application_name=x"}, "fallback_application_name"),
        ({"url": "mysql://host/db"}, "postgresql://"),
        ({"host": "here"}, "Name the database"),
        ({"database": "db", "port": 70000}, "1 to 65535"),
        ({"connection": "elsewhere"}, "Choose server or control-plane"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said_: str) -> None:
    with pytest.raises(Refused, match=said_):
        PostgresSource.clean(settings, {})


def test_a_url_and_single_settings_go_together() -> None:
    settings = PostgresSource.clean({"url": "postgresql://me@host:6000/db?sslmode=require", "port": "6001"}, {})
    assert address_of(settings, {}).parameters == {
        "user": "me", "host": "host", "port": "6001", "dbname": "db", "sslmode": "require",
    }  # fmt: skip


def test_the_control_planes_own_database_is_taken_from_djangos_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connections

    source = PostgresSource("own", PostgresSource.clean({"connection": "control-plane"}, {}), {})
    monkeypatch.setitem(connections["default"].settings_dict, "ENGINE", "django.db.backends.sqlite3")
    with pytest.raises(ConfigurationError, match="not PostgreSQL"):
        address_of(source.settings, {})
    assert "not PostgreSQL" in said(source.check())
    own = {"ENGINE": "django.db.backends.postgresql", "NAME": "own", "HOST": "db", "PORT": 5433, "USER": "me",
           "PASSWORD": "word", "OPTIONS": {"sslmode": "verify-full"}}  # fmt: skip
    for name, value in own.items():
        monkeypatch.setitem(connections["default"].settings_dict, name, value)
    address = address_of(source.settings, {})
    assert address.password == "word"
    restorer = source.restorer(Place(Path("/nowhere"), "abc"))
    assert "restore --offline" in said(restorer.preflight(1))
    for step in (lambda: restorer.prepare(iter([])), restorer.swap):
        with pytest.raises(CannotRestore, match="while it runs"):
            step()
    assert address.parameters == {
        "host": "db", "port": "5433", "dbname": "own", "user": "me", "sslmode": "verify-full",
    }  # fmt: skip


def test_an_older_pg_dump_is_a_clear_error(live: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Programs(tmp_path, "12.1", 12)
    monkeypatch.setattr(pg_connect, "installed", lambda program: [old])
    major = installed("initdb")[-1].major
    with pytest.raises(Unavailable, match=f"PostgreSQL {major}, and pg_dump is version 12.*postgresql-client-{major}"):
        source_of(live).capture(now=clock.now(), scratch=tmp_path).__enter__()
    assert "pg_dump is version 12" in said(source_of(live).check())


def test_the_oldest_programs_that_will_do_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [Programs(tmp_path, f"{n}.1", n) for n in (13, 15, 17)]
    monkeypatch.setattr(pg_connect, "installed", lambda program: versions)
    assert [pg_connect.programs_for("pg_dump", major).major for major in (13, 14, 15, 16)] == [13, 15, 15, 17]


def test_a_user_who_may_not_read_everything_is_told_by_the_connection_test(live: Address) -> None:
    run(live, "DROP ROLE IF EXISTS reader")
    run(live, "CREATE ROLE reader LOGIN")
    reader = Address({**live.parameters, "user": "reader"})
    assert "may not read 5 tables" in said(source_of(reader).check())
    run(live, "GRANT pg_read_all_data TO reader")
    assert said(source_of(reader).check()) == ""
    run(live, "DROP ROLE reader")


def test_the_restored_database_keeps_settings_and_owner_of_the_live_one(live: Address, tmp_path: Path) -> None:
    run(live, "DROP ROLE IF EXISTS keeper")
    run(live, "CREATE ROLE keeper")
    name = sql.Identifier(live.database)
    with live.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET work_mem = '5MB'").format(name))
        connection.execute(sql.SQL('ALTER DATABASE {} SET search_path = "a b", public').format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO keeper").format(name))
    data, _ = taken(source_of(live), tmp_path)
    restorer = source_of(live).restorer(Place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    restorer.swap()
    restorer.discard()
    assert run(live, "SHOW work_mem") == [("5MB",)]
    assert run(live, "SHOW search_path") == [('"a b", public',)]
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert run(live, owner) == [("keeper",)]
    with live.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO zantara").format(name))
    run(live, "DROP ROLE keeper")


def test_clients_that_reconnect_all_the_time_do_not_stop_the_swap(live: Address, tmp_path: Path) -> None:
    data, _ = taken(source_of(live), tmp_path)
    run(live, "DELETE FROM people")
    restorer = source_of(live).restorer(Place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    stop, connected = threading.Event(), 0

    def reconnect() -> None:
        nonlocal connected
        while not stop.is_set():
            try:
                with psycopg.connect(live.argument()) as connection:
                    connected += 1
                    connection.execute("SELECT pg_sleep(0.01)")
            except psycopg.Error:
                pass

    thread = threading.Thread(target=reconnect)
    thread.start()
    while connected < 3:
        stop.wait(0.01)
    try:
        restorer.swap()
    finally:
        stop.set()
        thread.join(10)
    assert run(live, "SELECT count(*) FROM people") == [(502,)]
    restorer.undo()
    assert run(live, "SELECT count(*) FROM people") == [(0,)]
    restorer.discard()


def test_a_swap_that_died_after_it_closed_the_database_is_undone(live: Address, tmp_path: Path) -> None:
    data, _ = taken(source_of(live), tmp_path)
    restorer = source_of(live).restorer(Place(tmp_path, "abc"))
    restorer.prepare(pieces(data))
    with live.at("postgres").connect() as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(live.database))
        )
    with pytest.raises(Unavailable):
        live.connect()
    another = source_of(live).restorer(Place(tmp_path, "abc"))
    another.memory = restorer.memory
    another.undo()
    another.discard()
    assert run(live, "SELECT count(*) FROM people") == [(502,)]
    assert run(live, f"SELECT datname FROM pg_database WHERE datname ~ '^{live.database}_'") == []


def test_preflight_names_what_would_stop_a_restore(live: Address, tmp_path: Path) -> None:
    _, expectations = taken(source_of(live), tmp_path)
    run(live, "DROP ROLE IF EXISTS nobody_much")
    run(live, "CREATE ROLE nobody_much LOGIN")
    with live.connect():
        restorer = source_of(Address({**live.parameters, "user": "nobody_much"})).restorer(Place(tmp_path, "abc"))
        findings = said(restorer.preflight(1000))
    run(live, "DROP ROLE nobody_much")
    for expected in ("CREATEDB", f"Only the owner of {live.database}", "pg_signal_backend"):
        assert expected in findings
    restorer = source_of(live).restorer(Place(tmp_path, "abc"))
    expectations["facts"] |= {"server_major": 99, "extensions": {"nonesuch": "1"}, "owners": ["somebody"]}
    restorer.expectations = {**expectations, "dumped_by_major": 99}
    findings = restorer.preflight(2**60)
    for expected in ("of PostgreSQL 99", "postgresql-client-99", "extensions nonesuch", "make room"):
        assert expected in said(findings)
    assert "The owners somebody are not here" in said(findings, "warn")


def test_a_database_that_is_gone_is_restored_under_its_name(live: Address, tmp_path: Path) -> None:
    data, expectations = taken(source_of(live), tmp_path)
    with live.at("postgres").connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(live.database)))
    restorer = source_of(live).restorer(Place(tmp_path, "abc"))
    restorer.expectations = expectations
    assert said(restorer.preflight(len(data))) == ""
    restorer.prepare(pieces(data))
    assert said(restorer.validate(expectations)) == ""
    restorer.swap()
    restorer.discard()
    assert run(live, "SELECT count(*) FROM people") == [(502,)]


def test_the_one_line_restores_with_pg_restore_alone(live: Address, postgres_database: Make, tmp_path: Path) -> None:
    data, expectations = taken(source_of(live), tmp_path)
    empty = postgres_database()
    line = PostgresSource.stock_command().replace("NAME_OF_AN_EMPTY_DATABASE", empty.database)
    program, *arguments = line.split()
    assert program == "pg_restore"
    environ = {"PGHOST": empty.parameters["host"], "PGUSER": empty.parameters["user"], "PATH": "/usr/bin:/bin"}
    subprocess.run([installed("pg_restore")[-1].path(program), *arguments], input=data, check=True, env=environ)
    with empty.connect() as connection:
        pg_expect.pin(connection)
        assert said(pg_expect.compare(expectations, connection)) == ""


def test_counting_waits_where_cores_are_few(live: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg_capture.os, "cpu_count", lambda: 2)
    assert PostgresCapture(live)._at_once is False
    assert PostgresCapture(Address({"host": "db.example", "dbname": "x"}))._at_once is True
    monkeypatch.setattr(pg_capture.os, "cpu_count", lambda: 8)
    assert PostgresCapture(live)._at_once is True
