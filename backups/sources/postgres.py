"""PostgreSQL: ``pg_dump`` in the custom format, uncompressed, from a snapshot of ours that we count and hash in.

The plain bytes are one archive of ``pg_dump``; stock ``pg_restore`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from backups.errors import Damaged
from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable

from . import pg_expect
from .base import Finding, Place, SettingField, Source
from .pg_capture import PostgresCapture
from .pg_connect import CONTROL_PLANE, address_of, programs_for, server_major
from .pg_load import archive_programs, count_archive, create_database, load, missing_extensions
from .pg_restorer import PostgresRestorer
from .scratch.postgres import scratch_postgres

SCRATCH_DATABASE = "drill"
#: ``hashtextextended`` and the forms of ALTER DATABASE that are used here.
OLDEST_SERVER = 13
OFFLINE_ONLY = (
    "The control plane cannot replace its own database while it runs: stop the stack and run "
    "manage.py restore --offline."
)


class PostgresSource(Source):
    kind: ClassVar[str] = "postgres"
    label: ClassVar[str] = "PostgreSQL database"
    description: ClassVar[str] = (
        "One database, dumped from one snapshot while it is written to; roles and other databases of the server are "
        "not in it."
    )
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "connection",
            "Database",
            "choice",
            default="server",
            choices=(("server", "As given below"), (CONTROL_PLANE, "The control plane's own database")),
        ),
        SettingField("host", "Host", help="Name or address, or the folder of the server's socket."),
        SettingField("port", "Port", "integer", help="5432 where empty."),
        SettingField("database", "Name of the database"),
        SettingField("user", "User", help="He needs the right to read everything: GRANT pg_read_all_data."),
        SettingField("password", "Password", "secret"),
        SettingField(
            "url", "Address as a URL", "url", help="postgresql://user@host:5432/database?sslmode=require, no password."
        ),
    )
    group: ClassVar = "databases"
    file_name: ClassVar[str] = "database.pgdump"

    @classmethod
    def clean(cls, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        known = {field.name: field.default for field in cls.fields if field.type != "secret"}
        cleaned = {name: settings.get(name) or default for name, default in known.items()}
        if cleaned["connection"] not in {"server", CONTROL_PLANE}:
            raise Refused("The setting connection is wrong.", remedy=f"Choose server or {CONTROL_PLANE}.")
        if cleaned["connection"] == CONTROL_PLANE:
            return {"connection": CONTROL_PLANE}
        if cleaned["port"] != "":
            cleaned["port"] = _port(cleaned["port"])
        for name in ("host", "database", "user", "url"):
            cleaned[name] = str(cleaned[name]).strip()
        address_of(cleaned, secrets)
        return cleaned

    def check(self) -> list[Finding]:
        try:
            with address_of(self.settings, self.secrets).connect() as connection:
                return self._checked(connection)
        except (Unavailable, ConfigurationError, Refused) as error:
            return [Finding("fail", str(error))]
        except psycopg.Error as error:
            return [Finding("fail", f"The server refused: {str(error).splitlines()[0]}")]

    @staticmethod
    def _checked(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Finding]:
        major = server_major(connection)
        if major < OLDEST_SERVER:
            return [Finding("fail", f"PostgreSQL {major} is too old: {OLDEST_SERVER} or newer is needed.")]
        programs = programs_for("pg_dump", major)
        tables = pg_expect.tables(connection)
        unreadable = pg_expect.unreadable(connection)
        size = (connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0]
        if unreadable:
            named = ", ".join(unreadable[:5])
            return [
                Finding("fail", f"The user may not read {len(unreadable)} tables ({named}): GRANT pg_read_all_data.")
            ]
        return [
            Finding(
                "pass", f"PostgreSQL {major}, {len(tables)} tables, {size} bytes on disk; pg_dump {programs.version}."
            )
        ]

    def expected_bytes(self) -> int | None:
        try:
            with address_of(self.settings, self.secrets).connect() as connection:
                row = connection.execute(
                    "SELECT sum(pg_table_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                    "WHERE c.relkind = 'r' AND n.nspname !~ '^pg_'"
                ).fetchone()
        except (Unavailable, ConfigurationError, Refused, psycopg.Error):
            return None
        return int(row[0]) if row and row[0] is not None else None

    def capture(self, *, now: datetime, scratch: Path) -> PostgresCapture:
        return PostgresCapture(address_of(self.settings, self.secrets))

    def inspect(self, chunks: Iterator[bytes], expectations: Mapping[str, Any]) -> list[Finding]:
        try:
            script = count_archive(chunks, expectations["dumped_by_major"])
        except Damaged as error:
            return [Finding("fail", str(error))]
        findings = []
        expected = {(table["schema"], table["name"]): table["rows"] for table in expectations["tables"]}
        for (schema, name), rows in expected.items():
            found = script.rows.get((schema, name))
            if found is None:
                findings.append(Finding("fail", f"Table {schema}.{name} is not in the archive."))
            elif found != rows:
                findings.append(
                    Finding("fail", f"Table {schema}.{name}: {rows} rows expected, {found} in the archive.")
                )
        if script.large_objects != expectations["large_objects"]["count"]:
            findings.append(
                Finding(
                    "fail",
                    f"{expectations['large_objects']['count']} large objects expected, {script.large_objects} in the "
                    "archive.",
                )
            )
        return findings or [
            Finding("pass", f"pg_restore reads the archive; {len(expected)} tables hold {sum(expected.values())} rows.")
        ]

    def drill(self, chunks: Iterator[bytes], expectations: Mapping[str, Any], place: Place) -> list[Finding]:
        facts, dumped_by = expectations["facts"], int(expectations["dumped_by_major"])
        archive_programs(dumped_by)
        with scratch_postgres(place.path, server_major=dumped_by) as address:
            with address.connect() as connection:
                missing = missing_extensions(connection, facts["extensions"])
                if missing:
                    raise Unavailable(
                        f"The scratch PostgreSQL lacks the extensions {', '.join(missing)}.",
                        remedy="Install their packages on the machine that runs the drills.",
                    )
                notes = create_database(connection, SCRATCH_DATABASE, facts)
            scratch = address.at(SCRATCH_DATABASE)
            complaint = load(
                chunks, scratch, dumped_by, "--single-transaction", "--no-owner", "--no-privileges", "--no-tablespaces",
                "--no-subscriptions", "--no-security-labels",
            )  # fmt: skip
            if complaint:
                return [Finding("fail", complaint)]
            with scratch.connect() as connection:
                pg_expect.pin(connection)
                return [*pg_expect.compare(expectations, connection), *notes]

    def restorer(self, place: Place) -> PostgresRestorer:
        refusal = OFFLINE_ONLY if self.settings.get("connection") == CONTROL_PLANE else ""
        return PostgresRestorer(address_of(self.settings, self.secrets), place, refusal=refusal)

    def offline_restorer(self, place: Place) -> PostgresRestorer:
        """For ``manage.py restore --offline`` alone: the stack is stopped, so its own database may be replaced."""
        return PostgresRestorer(address_of(self.settings, self.secrets), place)

    @classmethod
    def stock_command(cls) -> str:
        return "pg_restore --exit-on-error --single-transaction --no-owner --dbname=NAME_OF_AN_EMPTY_DATABASE"


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 1 <= port <= 65535:
        raise Refused("The setting port is wrong.", remedy="Give a number from 1 to 65535.")
    return port
