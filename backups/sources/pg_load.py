"""``pg_restore`` into a database, or to nowhere: with its exit code, because its list proves nothing.

Measured: ``pg_restore --list`` exits with 0 on half an archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from backups.errors import Damaged
from controlplane.kernel.errors import Unavailable

from .base import Finding
from .pg_connect import Address, Programs, first_line, programs_for
from .pg_script import ScriptReader
from .programs import Program, feed, read_all

MAGIC = b"PGDMP"


def archive_programs(dumped_by: int) -> Programs:
    """``pg_restore`` that reads the archives of this version of ``pg_dump``."""
    return programs_for("pg_restore", dumped_by)


def count_archive(chunks: Iterable[bytes], dumped_by: int) -> ScriptReader:
    """Have the whole archive made into SQL, and count its rows. Damaged where ``pg_restore`` cannot."""
    reader = ScriptReader()
    programs = archive_programs(dumped_by)
    with Program([programs.path("pg_restore"), "--section=data", "--file=-"], takes_input=True) as program:
        code = feed(program, chunks, reader.read)
        if code or not reader.is_whole:
            raise Damaged(
                f"pg_restore cannot read the archive to its end (exit code {code}): {program.complaint[-500:]}",
                remedy="Take another backup, and look at the store that held this one.",
            )
    return reader


def load(chunks: Iterable[bytes], address: Address, dumped_by: int, *options: str) -> str | None:
    """Restore the archive into an empty database; None, or what ``pg_restore`` complained of when it failed."""
    programs = archive_programs(dumped_by)
    argv: list[str | Path] = [
        programs.path("pg_restore"), "--exit-on-error", "--no-password", f"--dbname={address.argument()}", *options,
    ]  # fmt: skip
    with Program(argv, environ=address.environ(), takes_input=True) as program:
        code = feed(program, chunks, read_all)
        return f"pg_restore failed (exit code {code}): {program.complaint[-800:]}" if code else None


def create_database(
    connection: psycopg.Connection[Any], name: str, facts: Mapping[str, Any], *, owner: str = ""
) -> list[Finding]:
    """An empty database with the dumped one's encoding and locale, or with a plain locale where that is unknown here.

    Unavailable where the server refuses.
    """
    wanted = _locale(facts)
    try:
        connection.execute(_create(name, facts, wanted, owner))
    except psycopg.Error as error:
        if not wanted or not isinstance(error, psycopg.errors.WrongObjectType | psycopg.errors.InvalidParameterValue):
            raise _refused(name, error) from None
    else:
        return []
    try:
        connection.execute(_create(name, facts, {"LC_COLLATE": "C.UTF-8", "LC_CTYPE": "C.UTF-8"}, owner))
    except psycopg.Error as error:
        raise _refused(name, error) from None
    return [
        Finding("warn", f"The locale {facts['collate']} is not on this server: texts are sorted by C.UTF-8 instead.")
    ]


def missing_extensions(connection: psycopg.Connection[Any], wanted: Mapping[str, str]) -> list[str]:
    """Names of extensions that a dump needs and this server does not offer."""
    offered = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions").fetchall()}
    return sorted(set(wanted) - offered)


def _locale(facts: Mapping[str, Any]) -> dict[str, str]:
    wanted = {"LC_COLLATE": facts["collate"], "LC_CTYPE": facts["ctype"]}
    provider = {"i": "icu", "b": "builtin"}.get(facts["locale_provider"])
    if provider:
        wanted["LOCALE_PROVIDER"] = provider
        wanted["ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE"] = facts["locale"]
    return wanted


def _create(name: str, facts: Mapping[str, Any], options: Mapping[str, str], owner: str) -> sql.Composed:
    parts: list[sql.Composable] = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}").format(
            sql.Identifier(name), sql.Literal(facts["encoding"])
        )
    ]
    # Keys are the three or four that are written above.
    parts += [sql.SQL(f"{key} {{}}").format(sql.Literal(value)) for key, value in options.items()]
    if owner:
        parts.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
    return sql.SQL(" ").join(parts)


def _refused(name: str, error: psycopg.Error) -> Unavailable:
    return Unavailable(
        f"The database {name} could not be made: {first_line(error)}.",
        remedy="Give the user the right CREATEDB, or make room on the server.",
    )
