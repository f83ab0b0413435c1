"""How a PostgreSQL database is reached: by our own connections, and by its programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import psycopg
from psycopg import conninfo

from controlplane.kernel.errors import ConfigurationError, Refused, Unavailable

from .programs import own_environment

CONNECT_SECONDS = 10
#: A lock that somebody else holds or waits for (a migration) is given up after this long, not waited for all night.
LOCK_SECONDS = 60
CONTROL_PLANE = "control-plane"
APPLICATION = "zantara-backup"
_PARAMETERS = ("host", "port", "dbname", "user")
_OPTIONS = (
    "host",
    "port",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
    "options",
)
_CHECK_REMEDY = "See that the server runs and that host, port, database, user and password are right."


@dataclass(frozen=True)
class Address:
    """One database. The password is kept apart: it never stands in an argument list."""

    parameters: Mapping[str, str]
    password: str = field(default="", repr=False)

    @property
    def database(self) -> str:
        return str(self.parameters["dbname"])

    def at(self, database: str) -> Address:
        """Another database of the same server."""
        return replace(self, parameters={**self.parameters, "dbname": database})

    def argument(self) -> str:
        """For ``--dbname`` of the programs."""
        return conninfo.make_conninfo(
            "", **self.parameters, application_name=APPLICATION, connect_timeout=CONNECT_SECONDS
        )

    def environ(self) -> dict[str, str]:
        """For the environment of the programs."""
        return {"PGPASSWORD": self.password} if self.password else {}

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection whose transactions are begun by hand; Unavailable says what the server said."""
        parameters: dict[str, Any] = {
            **self.parameters,
            "application_name": APPLICATION,
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,
        }
        if self.password:
            parameters["password"] = self.password
        try:
            return psycopg.connect(autocommit=True, **{**parameters, **options})
        except psycopg.Error as error:
            raise Unavailable(
                f"PostgreSQL did not accept a connection to {self.database}: {first_line(error)}.", remedy=_CHECK_REMEDY
            ) from None


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Turn every failure of the server into Unavailable that says what was being done."""
    try:
        yield
    except psycopg.Error as error:
        raise Unavailable(f"{what} failed: {first_line(error)}.", remedy=_CHECK_REMEDY) from None


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def address_of(settings: Mapping[str, Any], secrets: Mapping[str, str]) -> Address:
    """The address that a source's settings name; Refused where they make none."""
    if settings.get("connection") == CONTROL_PLANE:
        return control_plane_address()
    url = str(settings.get("url") or "")
    parameters = _from_url(url) if url else {}
    for name, setting in (("host", "host"), ("port", "port"), ("dbname", "database"), ("user", "user")):
        value = settings.get(setting)
        if value not in (None, ""):
            parameters[name] = str(value)
    if not parameters.get("dbname"):
        _refuse("database", "Name the database that is to be saved.")
    return Address(parameters, str(secrets.get("password") or ""))


def control_plane_address() -> Address:
    """Django's default database; ConfigurationError where that is not PostgreSQL."""
    from django.db import connections

    database = connections["default"].settings_dict
    if not str(database["ENGINE"]).endswith("postgresql"):
        raise ConfigurationError(
            "The control plane's own database is not PostgreSQL.", remedy="Save it with a source of the kind sqlite."
        )
    parameters = {
        name: str(database[key])
        for name, key in (("host", "HOST"), ("port", "PORT"), ("dbname", "NAME"), ("user", "USER"))
        if database.get(key)
    }
    options = database.get("OPTIONS") or {}
    parameters |= {name: str(options[name]) for name in _OPTIONS if options.get(name)}
    return Address(parameters, str(database.get("PASSWORD") or ""))


def _from_url(url: str) -> dict[str, str]:
    try:
        parsed = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        _refuse("url", "Write postgresql://user@host:5432/database; characters such as @ or / as %40 or %2F.")
    if parsed.pop("password", None):
        _refuse("url", "Take the password out of it and put it into the field for the password.")
    unknown = sorted(set(parsed) - {*_PARAMETERS, *_OPTIONS})
    if unknown:
        _refuse("url", f"Take {', '.join(unknown)} out of it.")
    return parsed


def _refuse(setting: str, remedy: str) -> NoReturn:
    raise Refused(f"The setting {setting} cannot be used as it is.", remedy=remedy)


@dataclass(frozen=True)
class Programs:
    """The programs of one PostgreSQL version, from one folder."""

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> Path:
        return self.folder / name


def installed(program: str) -> list[Programs]:
    """Every version of ``program`` on this machine, oldest first."""
    folders = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / program).is_file()]
    found = shutil.which(program)
    # Debian's command on PATH is a script that chooses by cluster; what it chooses from is in the folders.
    if found and not folders:
        folders.append(Path(found).resolve().parent)
    return sorted((_programs(folder, program) for folder in folders), key=lambda programs: programs.major)


def programs_for(program: str, server_major: int, *, package: str = "postgresql-client") -> Programs:
    """The oldest version that is not older than the server; Unavailable where there is none.

    ``pg_dump`` refuses a newer server, and an archive of a newer ``pg_dump`` may not load into an older server.
    """
    versions = installed(program)
    for programs in versions:
        if programs.major >= server_major:
            return programs
    have = f"is version {versions[-1].major}" if versions else "is not on this machine"
    raise Unavailable(
        f"The server is PostgreSQL {server_major}, and {program} {have}.",
        remedy=f"Install the package {package}-{server_major} or newer.",
    )


def _programs(folder: Path, program: str) -> Programs:
    answer = subprocess.run(
        [folder / program, "--version"], capture_output=True, check=False, timeout=30, env=own_environment()
    )
    match = re.search(r"(\d+)(?:\.\d+)*", answer.stdout.decode("utf-8", "replace"))
    if answer.returncode or match is None:
        return Programs(folder, "unknown", 0)
    return Programs(folder, match[0], int(match[1]))


def server_major(connection: psycopg.Connection[Any]) -> int:
    return connection.info.server_version // 10000
