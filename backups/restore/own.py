"""Which source is the control plane's own database: it holds the restore's own row, so it goes back offline."""

from __future__ import annotations

from pathlib import Path

from django.db import connections

from backups.sources.base import Source

CONTROL_PLANE = "control-plane"


def own_sqlite_file() -> Path | None:
    """The file of Django's default database; None where that is a server."""
    database = connections["default"].settings_dict
    if not str(database["ENGINE"]).endswith("sqlite3"):
        return None
    return Path(str(database["NAME"])).absolute()


def is_own_database(source: Source) -> bool:
    """Whether restoring this source would replace the database that this process works with."""
    if source.settings.get("connection") == CONTROL_PLANE:
        return True
    own = own_sqlite_file()
    if source.kind == "sqlite" and own is not None:
        return Path(str(source.settings.get("path", ""))).resolve() == own.resolve()
    if source.kind == "postgres" and own is None:
        return _is_own_postgres(source)
    return False


def _is_own_postgres(source: Source) -> bool:
    """By server and name of the database; different spellings of one host count as one where both are this machine."""
    from backups.sources.pg_connect import address_of, control_plane_address

    ours, theirs = control_plane_address().parameters, address_of(source.settings, source.secrets).parameters
    if ours.get("dbname") != theirs.get("dbname") or ours.get("port", "5432") != theirs.get("port", "5432"):
        return False
    return _host(ours.get("host", "")) == _host(theirs.get("host", ""))


def _host(name: str) -> str:
    return "this machine" if name.startswith("/") or name in {"", "localhost", "127.0.0.1", "::1"} else name
