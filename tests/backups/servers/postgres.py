"""A PostgreSQL of the whole run, and an empty database of each test."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backups.sources.pg_connect import Address, installed
from backups.sources.postgres import PostgresSource
from backups.sources.scratch.postgres import scratch_postgres
from tests import needs


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Address]:
    """The address of a server's database ``postgres``; its user may do everything."""
    if needs.postgres_bin() is None:
        needs.leave_out("PostgreSQL is not installed (Debian package postgresql)")
    with tempfile.TemporaryDirectory(prefix="zt-pg-") as folder:
        with scratch_postgres(Path(folder), server_major=installed("initdb")[-1].major) as address:
            yield address


@pytest.fixture
def postgres_database(postgres_server: Address) -> Iterator[Callable[[], Address]]:
    """Make empty databases; they, and what was made beside them, are gone after the test."""
    names: list[str] = []

    def make() -> Address:
        names.append(f"t{secrets.token_hex(5)}")
        with postgres_server.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(names[-1])))
        return postgres_server.at(names[-1])

    yield make
    with postgres_server.connect() as connection:
        for (name,) in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall():
            if any(name.startswith(mine) for mine in names):
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def source_of(address: Address, **secret: str) -> PostgresSource:
    """A source with the settings that name this database."""
    given: dict[str, Any] = {"connection": "server", "url": "", **address.parameters, "database": address.database}
    return PostgresSource("database", PostgresSource.clean(given, secret), secret)


def fill(address: Address) -> None:
    """Tables, a partitioned one, odd names and values, a sequence, a view, a function, a trigger, large objects."""
    with address.connect() as connection:
        for statement in _CONTENTS:
            connection.execute(statement)


def run(address: Address, statement: str) -> list[tuple[Any, ...]]:
    with address.connect() as connection:
        cursor: psycopg.Cursor[tuple[Any, ...]] = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


_CONTENTS = (
    "CREATE TABLE people (id serial PRIMARY KEY, name text UNIQUE, born timestamptz, height double precision, photo "
    "bytea, tags jsonb, span interval)",
    "INSERT INTO people (name, born, height, photo, tags, span) SELECT 'Name ' || n || chr(9) || E'\\\\ line\\n two', "
    "timestamptz '2026-01-01 00:00+02' + n * interval '1 hour', n / 3.0, decode(md5(n::text), 'hex'), "
    "jsonb_build_object('n', n), n * interval '1 day 2 hours' FROM generate_series(1, 500) n",
    "INSERT INTO people (name) VALUES (NULL), (E'\\\\.')",
    'CREATE SCHEMA "Odd ""schema"""',
    'CREATE TABLE "Odd ""schema"""."a table.with (dots)" ("Key" int, "select" text)',
    'INSERT INTO "Odd ""schema"""."a table.with (dots)" SELECT n, chr(120) FROM generate_series(1, 7) n',
    "CREATE TABLE empty (id int)",
    "CREATE TABLE readings (at date, value numeric(20, 6)) PARTITION BY RANGE (at)",
    "CREATE TABLE readings_2025 PARTITION OF readings FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE readings_2026 PARTITION OF readings FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "INSERT INTO readings SELECT date '2025-12-01' + n, n * 1.000001 FROM generate_series(0, 60) n",
    "CREATE INDEX readings_at ON readings (at)",
    "CREATE VIEW tall AS SELECT * FROM people WHERE height > 100",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER noted BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE SEQUENCE tickets START 100",
    "SELECT nextval('tickets') FROM generate_series(1, 3)",
    "SELECT lo_from_bytea(0, decode(repeat('ab', 3000), 'hex')), lo_from_bytea(0, '')",
)
