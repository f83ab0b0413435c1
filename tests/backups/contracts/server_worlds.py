"""The worlds of the kinds that talk to a server: PostgreSQL, Chroma, and a service with vectors in its memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from psycopg import sql

from backups.sources.base import Source
from backups.sources.chroma import ChromaSource
from backups.sources.chroma_client import Server
from backups.sources.memory_vectors import MemoryVectorsSource
from backups.sources.pg_connect import Address
from controlplane.identity.tokens import issue
from tests.backups.servers import chroma, postgres
from tests.zantara.conftest import TECH_LEAD, Running

from .worlds import World, world


class PostgresWorld(World):
    def __init__(self, make: Callable[[], Address]) -> None:
        self.address = make()
        postgres.fill(self.address)

    def source(self) -> Source:
        return postgres.source_of(self.address)

    def state(self) -> Any:
        tables = ("people", "readings", "empty", '"Odd ""schema"""."a table.with (dots)"')
        rows = {table: postgres.run(self.address, f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables}
        large = "SELECT oid::bigint, lo_get(oid) FROM pg_largeobject_metadata ORDER BY 1"
        return {
            **rows,
            "tickets": postgres.run(self.address, "SELECT last_value, is_called FROM tickets"),
            "large": [(oid, bytes(data)) for oid, data in postgres.run(self.address, large)],
            "databases": self._databases(),
        }

    def _databases(self) -> list[str]:
        """Of this world; what stands beside for a while does not count."""
        found = postgres.run(self.address, "SELECT datname, datallowconn FROM pg_database ORDER BY 1")
        return [f"{name} {open_}" for name, open_ in found if name == self.address.database]

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        postgres.run(self.address, "UPDATE people SET height = height + 1e-15 WHERE id = 7")
        return "public.people"

    def remove(self) -> str:
        postgres.run(self.address, "DELETE FROM readings WHERE at = '2025-12-24'")
        return "public.readings_2025"

    def add(self) -> str:
        postgres.run(self.address, 'INSERT INTO "Odd ""schema"""."a table.with (dots)" VALUES (7, chr(120))')
        return 'Odd "schema".a table.with (dots)'

    def write_once(self, number: int) -> None:
        with self.address.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO people (name) VALUES (%s)", (f"busy {number}",))
            connection.execute("DELETE FROM readings WHERE at = (SELECT min(at) FROM readings)")
            connection.execute("INSERT INTO readings VALUES (date '2026-03-01' + %s, 1)", (number % 200,))
            connection.execute("SELECT nextval('tickets')")

    def empty(self) -> None:
        name = sql.Identifier(self.address.database)
        with self.address.at("postgres").connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


class ChromaWorld(World):
    exact = False  # collections that came since stay

    def __init__(self, server: Server) -> None:
        self.server = server
        self.first = chroma.make(server, "first", metadata={"of": "tests"})
        self.second = chroma.make(server, "second", space="l2")
        chroma.make(server, "nothing-in-it")
        chroma.put(server, self.first, [f"id-{n}" for n in range(1203)])
        chroma.put(server, self.second, [f"id-{n}" for n in range(30)], dimension=200)
        self.tenant = "default_tenant"

    def source(self) -> Source:
        return ChromaSource("vectors", ChromaSource.clean({"url": self.server.url, "tenant": self.tenant}, {}), {})

    def state(self) -> Any:
        names = chroma.contents(self.server)
        return {name: found for name, found in names.items() if "__" not in name}

    def restored_state(self, token: str) -> Any:
        return self.state()

    def _id(self, name: str) -> str:
        with chroma.Chroma(self.server) as client:
            return next(str(one["id"]) for one in client.collections() if one["name"] == name)

    def change(self) -> str:
        chroma.put(self.server, self._id("first"), ["id-17"], words="other words")
        return "first"

    def remove(self) -> str:
        chroma.drop(self.server, self._id("second"), ["id-3"])
        return "second"

    def add(self) -> str:
        chroma.put(self.server, chroma.make(self.server, "third"), ["a"])
        return "third"

    def write_once(self, number: int) -> None:
        chroma.drop(self.server, self.first, [f"id-{number % 1000}"])
        chroma.put(self.server, self.first, [f"new-{number}"])

    def empty(self) -> None:
        self.tenant = "nobody"


class MemoryVectorsWorld(World):
    def __init__(self, service: Running) -> None:
        self.url = service.url
        # one connection: with each of hundreds of requests the certificates of the whole web would be read anew
        self.client = httpx2.Client(trust_env=False, verify=False, timeout=20)
        for number in range(30):
            self._put(f"r{number}", f"text {number}")

    def source(self) -> Source:
        settings = {
            "url": f"{self.url}/vectors/export", "issue_token_for_role": TECH_LEAD, "drill_with": "sample",
        }  # fmt: skip
        return MemoryVectorsSource("memory", MemoryVectorsSource.clean(settings, {}), {})

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {issue('tester', TECH_LEAD, 600)}"}
        answer = self.client.request(method, self.url + path, headers=headers, **options)
        assert answer.status_code == 200, answer.text
        return answer

    def _put(self, record_id: str, text: str) -> None:
        body = {"key": "memory.add", "params": {"id": record_id, "text": text}}
        self._send("POST", "/zantara.unified", json=body)

    def state(self) -> Any:
        return sorted(json.loads(line)["id"] + line for line in self._send("GET", "/vectors/export").text.splitlines())

    def restored_state(self, token: str) -> Any:
        return self.state()

    def change(self) -> str:
        self._put("r7", "another text")
        return "r7"

    def remove(self) -> str:
        self._send("POST", "/zantara.unified", json={"key": "memory.delete", "params": {"id": "r9"}})
        return "r9"

    def add(self) -> str:
        self._put("r99", "a new text")
        return "r99"

    def write_once(self, number: int) -> None:
        self._put(f"busy{number % 7}", f"busy {number}")

    def empty(self) -> None:
        self.url = "http://127.0.0.1:9"


@world("postgres")
def _postgres(request: pytest.FixtureRequest) -> World:
    return PostgresWorld(request.getfixturevalue("postgres_database"))


@world("chroma")
def _chroma(request: pytest.FixtureRequest) -> World:
    return ChromaWorld(request.getfixturevalue("chroma_server"))


@world("memory_vectors")
def _memory_vectors(request: pytest.FixtureRequest) -> World:
    made = MemoryVectorsWorld(request.getfixturevalue("sample_service"))
    request.addfinalizer(made.client.close)
    return made
