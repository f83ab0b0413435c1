"""A PostgreSQL database on its way back: a new database beside, and two renames in one transaction.

Databases are told apart by their oid, so that any process can see from the server how far an earlier one came:

    before    live name = old oid    <db>_restore_<token> = new oid
    swapped   live name = new oid    <db>_before_<token>  = old oid
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from backups.errors import CannotRestore, RestoreFailed
from controlplane.kernel.errors import Unavailable

from . import pg_expect
from .base import Finding, Place, Restorer
from .pg_connect import LOCK_SECONDS, Address, answering, first_line, installed, server_major
from .pg_load import create_database, load, missing_extensions

#: Databases that are on every server; one of them is connected to while others are renamed.
MAINTENANCE = ("postgres", "template1")
LONGEST_NAME = 63
_RENAME_TRIES = 5
Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresRestorer(Restorer):
    def __init__(self, address: Address, place: Place, *, refusal: str = "") -> None:
        super().__init__()
        self._address, self._refusal = address, refusal
        self.live = address.database
        self.beside, self.kept = (_name(self.live, word, place.token) for word in ("restore", "before"))
        #: What the set expects, where whoever restores knows it before ``validate``: makes preflight sharper.
        self.expectations: Mapping[str, Any] = {}

    # ── the steps ────────────────────────────────────────────────────────────────────────────────────────────────

    def preflight(self, plain_bytes: int) -> list[Finding]:
        if self._refusal:
            return [Finding("fail", self._refusal)]
        if not installed("pg_restore"):
            return [Finding("fail", "pg_restore is not on this machine: install the package postgresql-client.")]
        try:
            with self._maintenance() as connection:
                return [*self._rights(connection), *self._fit(connection), *self._room(connection, plain_bytes)]
        except Unavailable as error:
            return [Finding("fail", str(error))]

    def prepare(self, chunks: Iterator[bytes]) -> None:
        self._demand_permission()
        with self._maintenance() as connection, answering("Making room beside the live database"):
            self._drop(connection, self.beside)
            facts = dict(self.expectations.get("facts") or {}) or self._facts_of_live()
            live = _database(connection, self.live)
            notes = create_database(connection, self.beside, facts, owner=live["owner"] if live else "")
            self.memory |= {
                "old_oid": live["oid"] if live else None,
                "old_connectable": live["connectable"] if live else True,
                "new_oid": (_database(connection, self.beside) or {}).get("oid"),
                "notes": [note.detail for note in notes],
            }
        options = self._ownership()
        complaint = load(chunks, self._address.at(self.beside), installed("pg_restore")[-1].major, *options)
        if complaint:
            raise RestoreFailed(
                f"The database could not be restored beside: {complaint}",
                remedy="The live database is as it was. If an extension or a role is missing, add it and try again.",
            )
        if self.memory["old_oid"] is not None:
            self._copy_properties()

    def validate(self, expectations: Mapping[str, Any]) -> list[Finding]:
        with self._address.at(self.beside).connect() as connection, answering("Comparing the restored database"):
            pg_expect.pin(connection)
            return [
                *(Finding("warn", note) for note in self.memory.get("notes", ())),
                *pg_expect.compare(expectations, connection),
            ]

    def swap(self) -> None:
        self._demand_permission()
        with self._maintenance() as connection, answering("Putting the restored database in place"):
            if self._is_swapped(connection):
                return
            old, new = self.memory["old_oid"], self.memory["new_oid"]
            if new is None or _name_of(connection, new) != self.beside:
                raise RestoreFailed(f"The database {self.beside} is not there any more.", remedy="Restore it again.")
            if old is None:
                self._rename(connection, [(self.beside, self.live)])
                return
            _allow_connections(connection, self.live, False)
            self._rename(connection, [(self.live, self.kept), (self.beside, self.live)])

    def undo(self) -> None:
        if "new_oid" not in self.memory:
            return
        old = self.memory["old_oid"]
        with self._maintenance() as connection, answering("Putting the former database back"):
            if self._is_swapped(connection):
                back = [(self.live, self.beside)] + ([(self.kept, self.live)] if old is not None else [])
                _allow_connections(connection, self.live, False)
                self._rename(connection, back)
                _allow_connections(connection, self.beside, True)
            if old is not None:
                _allow_connections(connection, _name_of(connection, old) or self.live, self.memory["old_connectable"])

    def discard(self) -> None:
        with self._maintenance() as connection, answering("Removing the database that is not needed any more"):
            for name in (self.beside, self.kept):
                found = _database(connection, name)
                if found is not None and found["oid"] in {self.memory.get("old_oid"), self.memory.get("new_oid")}:
                    self._drop(connection, name)
            if "new_oid" not in self.memory:
                self._drop(connection, self.beside)

    # ── what they are made of ────────────────────────────────────────────────────────────────────────────────────

    def _demand_permission(self) -> None:
        if self._refusal:
            raise CannotRestore(self._refusal, remedy="Nothing was touched.")

    def _maintenance(self) -> Connection:
        """A connection to a database that is not renamed."""
        refusal: Unavailable | None = None
        for name in MAINTENANCE:
            if name != self.live:
                try:
                    return self._address.at(name).connect()
                except Unavailable as error:
                    refusal = error
        raise refusal or Unavailable("There is no database to connect to besides the one to be replaced.")

    def _rights(self, connection: Connection) -> list[Finding]:
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, pg_has_role(current_user, 'pg_signal_backend', 'MEMBER') FROM pg_roles "
            "WHERE rolname = current_user"
        ).fetchone()
        superuser, creates, signals = row or (False, False, False)
        live = _database(connection, self.live)
        findings = []
        if not (superuser or creates):
            findings.append(Finding("fail", "The user may not make databases: ALTER ROLE … CREATEDB."))
        if live is None:
            findings.append(Finding("warn", f"There is no database {self.live} now; it is made."))
            return findings
        if not superuser and not live["is_owner"]:
            findings.append(Finding("fail", f"Only the owner of {self.live} may rename it, and the user is not."))
        if not superuser:
            findings.append(
                Finding("warn", "The user is no superuser: everything restored will belong to him, without grants.")
            )
        others = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE usename IS DISTINCT FROM current_user) FROM pg_stat_activity "
            "WHERE datname = %s AND pid <> pg_backend_pid() AND usename IS NOT NULL",
            (self.live,),
        ).fetchone() or (0, 0)
        if others[0]:
            findings.append(Finding("warn", f"{others[0]} sessions use {self.live}; they are ended at the swap."))
        if others[1] and not (superuser or signals):
            findings.append(Finding("fail", "Sessions of other users could not be ended: GRANT pg_signal_backend."))
        return findings

    def _fit(self, connection: Connection) -> list[Finding]:
        facts = self.expectations.get("facts")
        if not facts:
            return []
        findings = []
        here = server_major(connection)
        if here < facts["server_major"]:
            findings.append(
                Finding("fail", f"The set is of PostgreSQL {facts['server_major']}, and this server is {here}.")
            )
        readers = installed("pg_restore")[-1].major
        if readers < self.expectations["dumped_by_major"]:
            wanted = self.expectations["dumped_by_major"]
            findings.append(
                Finding("fail", f"pg_restore is {readers}: install the package postgresql-client-{wanted}.")
            )
        missing = missing_extensions(connection, facts["extensions"])
        if missing:
            findings.append(Finding("fail", f"This server lacks the extensions {', '.join(missing)}: install them."))
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        strangers = sorted(set(facts["owners"]) - roles)
        if strangers:
            findings.append(
                Finding("warn", f"The owners {', '.join(strangers)} are not here: all will belong to one user.")
            )
        return findings

    @staticmethod
    def _room(connection: Connection, plain_bytes: int) -> list[Finding]:
        """Free space, where the server's files are on this machine and may be asked for."""
        folder: Path | None = None
        with suppress(psycopg.Error):
            row = connection.execute("SELECT current_setting('data_directory', true)").fetchone()
            folder = Path(row[0]) if row and row[0] and not connection.info.host.count(".") else None
        needed = 2 * plain_bytes
        if folder is None or not os.access(folder, os.R_OK):
            return [Finding("warn", f"The server's free space is not known here; about {needed} bytes are needed.")]
        free = shutil.disk_usage(folder).free
        if free < needed:
            return [Finding("fail", f"The server has {free} bytes free, and {needed} are needed: make room.")]
        return [Finding("pass", f"The server has {free} bytes free; {needed} are needed.")]

    def _facts_of_live(self) -> dict[str, Any]:
        with self._address.connect() as connection:
            return pg_expect.database_facts(connection)

    def _ownership(self) -> list[str]:
        """Owners and grants are restored where that can work: by a superuser, with every owner there."""
        with self._maintenance() as connection, answering("Looking at the server's roles"):
            superuser = connection.info.parameter_status("is_superuser") == "on"
            roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        owners = (self.expectations.get("facts") or {}).get("owners")
        keep = superuser and owners is not None and set(owners) <= roles
        return [] if keep else ["--no-owner", "--no-privileges", "--no-tablespaces"]

    def _copy_properties(self) -> None:
        """Settings and grants of the database itself are not in a dump: take them from the live one."""
        with self._address.at(self.beside).connect() as connection:
            rows = connection.execute(
                "SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setdatabase = %s AND s.setrole = 0",
                (self.memory["old_oid"],),
            ).fetchall()
            for assignment in [one for (config,) in rows for one in config]:
                name, _, value = assignment.partition("=")
                # Through the session, so that the server and not we quote the value.
                with suppress(psycopg.Error):
                    connection.execute("SELECT set_config(%s, %s, false)", (name, value))
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} SET {} FROM CURRENT").format(
                            sql.Identifier(self.beside), sql.SQL(".").join(map(sql.Identifier, name.split(".")))
                        )
                    )

    def _is_swapped(self, connection: Connection) -> bool:
        new = self.memory.get("new_oid")
        return new is not None and _name_of(connection, new) == self.live

    def _rename(self, connection: Connection, steps: list[tuple[str, str]]) -> None:
        """All renames in one transaction. Sessions are ended before; a client that is quicker is ended again."""
        for attempt in range(_RENAME_TRIES):
            for name, _ in steps:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
                    "WHERE datname = %s AND pid <> pg_backend_pid() AND usename IS NOT NULL",
                    (name,),
                )
            try:
                with connection.transaction():
                    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                    for name, to in steps:
                        connection.execute(
                            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(to))
                        )
                return
            except psycopg.errors.ObjectInUse as error:
                if attempt == _RENAME_TRIES - 1:
                    raise RestoreFailed(
                        f"The databases could not be exchanged: {first_line(error)}.",
                        remedy="Stop what connects to it all the time, and try again. The live database is as it was.",
                    ) from None

    def _drop(self, connection: Connection, name: str) -> None:
        if name == self.live:
            raise CannotRestore(f"{name} is the live database.", remedy="This is a fault of the program: report it.")
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _name(live: str, word: str, token: str) -> str:
    end = f"_{word}_{token}"
    return live.encode()[: LONGEST_NAME - len(end)].decode("utf-8", "ignore") + end


def _database(connection: Connection, name: str) -> dict[str, Any] | None:
    row = connection.execute(
        "SELECT oid::bigint, pg_get_userbyid(datdba), datallowconn, pg_has_role(current_user, datdba, 'MEMBER') "
        "FROM pg_database WHERE datname = %s",
        (name,),
    ).fetchone()
    return None if row is None else {"oid": row[0], "owner": row[1], "connectable": row[2], "is_owner": row[3]}


def _name_of(connection: Connection, oid: int) -> str | None:
    row = connection.execute("SELECT datname FROM pg_database WHERE oid = %s::oid", (oid,)).fetchone()
    return None if row is None else str(row[0])


def _allow_connections(connection: Connection, name: str, allowed: bool) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(
            sql.Identifier(name), sql.SQL("true" if allowed else "false")
        )
    )
