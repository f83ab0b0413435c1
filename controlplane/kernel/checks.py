"""System checks: every finding has an id, says what to do, and names the page that explains it.

The helpers are for every room, also in a foreign project; the checks below are those of the control plane
itself that belong to no app. Ids by room:
``0xx`` the house (here), ``1xx`` rate limits, ``2xx`` identity.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.apps.config import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage

#: Hosts that only this machine reaches: DEBUG may stay on there.
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", ".localhost", "[::1]", "testserver"})


def docs_url(page: str, anchor: str = "") -> str:
    """Where the documentation lies, as a path in the repository: ``docs/checks.md#zantarae001``."""
    return f"docs/{page}.md#{anchor}" if anchor else f"docs/{page}.md"


def check_docs(check_id: str) -> str:
    """The line of ``docs/checks.md`` that explains a check."""
    return docs_url("checks", check_id.replace(".", "").lower())


def check_error(id: str, msg: str, hint: str, docs: str = "", *, obj: Any = None) -> checks.Error:
    """A finding that stops commands. ``docs`` is by default the check's own line in ``docs/checks.md``."""
    return checks.Error(msg, hint=f"{hint} ({docs or check_docs(id)})", obj=obj, id=id)


def check_warning(id: str, msg: str, hint: str, docs: str = "", *, obj: Any = None) -> checks.Warning:
    """A finding that is printed and lets commands run."""
    return checks.Warning(msg, hint=f"{hint} ({docs or check_docs(id)})", obj=obj, id=id)


_SECRET_WORDS = ("SECRET", "PASSWORD", "DATABASE_URL", "TOKEN", "FIELDS_KEY", "SIGNING_KEY", "IDENTITY")


def secret_files() -> list[Path]:
    """The files that hold secrets: those of the data directory, and every file that a ``ZANTARA_*_FILE`` names.

    A public key is no secret, so lists of public keys are not among them.
    """
    files = [Path(value) for name, value in os.environ.items() if name.startswith("ZANTARA_") and _is_secret(name)]
    folder = getattr(settings, "ZANTARA_DATA_DIR", None)
    if folder is not None:
        files += sorted(path for path in (Path(folder) / "secrets").glob("[!.]*") if path.suffix != ".pub")
    return [path for path in dict.fromkeys(files) if path.is_file()]


def _is_secret(name: str) -> bool:
    return name.endswith("_FILE") and any(word in name for word in _SECRET_WORDS)


def is_private(path: Path) -> bool:
    """Whether nobody but the owner can read or write the file.

    Secrets that a container runtime mounts are read-only files of root in memory: their owner's group may
    read them, others may not.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if path.is_relative_to("/run/secrets"):
        return True
    return mode & 0o077 == 0


#: What an installation that brings its own secrets must bring, beside the key of Django itself.
REQUIRED = ("ZANTARA_JWT_SECRET", "ZANTARA_LIMITS_SECRET", "ZANTARA_FIELDS_KEY")


def check_secrets(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Each secret is there, and only its owner can read its file."""
    missing = [name for name in REQUIRED if not getattr(settings, name, None)]
    if getattr(settings, "ZANTARA_JWT_PUBLIC_KEY_FILES", None):
        missing = [name for name in missing if name != "ZANTARA_JWT_SECRET"]
    for name in missing:
        yield check_error(
            "zantara.E001",
            f"The secret {name} is not set.",
            hint=f"Set {name} or {name}_FILE: an installation that brings one secret of its own brings all of them.",
        )
    for path in secret_files():
        if not is_private(path):
            yield check_error(
                "zantara.E002",
                f"The secret file {path} can be read by other users.",
                hint=f"Run `chmod 600 {path}`.",
            )


def check_debug_is_local(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Debug pages show settings and source: never to another machine."""
    public = [host for host in settings.ALLOWED_HOSTS if host not in LOCAL_HOSTS]
    if settings.DEBUG and public:
        yield check_error(
            "zantara.E003",
            f"Debug mode is on and other machines may call this one as {', '.join(public)}.",
            hint="Unset ZANTARA_DEBUG, or leave only local names in ZANTARA_ALLOWED_HOSTS.",
        )


def check_celery(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Celery in the same time zone as Django, in its own processes, and patient enough for its longest task."""
    celery_zone = getattr(settings, "CELERY_TIMEZONE", None) or "UTC"
    if celery_zone != settings.TIME_ZONE:
        yield check_error(
            "zantara.E004",
            f"Celery counts in {celery_zone} and Django in {settings.TIME_ZONE}: schedules would fire at other hours "
            "than pages show.",
            hint="Give CELERY_TIMEZONE and TIME_ZONE the same value; a schedule carries its own time zone.",
        )
    if getattr(settings, "CELERY_TASK_ALWAYS_EAGER", False):
        yield check_error(
            "zantara.E005",
            "Tasks run inside the process that sends them, so a request would wait for a whole backup.",
            hint="Remove CELERY_TASK_ALWAYS_EAGER.",
        )
    limit = getattr(settings, "CELERY_TASK_TIME_LIMIT", None)
    patience = getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {}).get("visibility_timeout", 3600)
    if limit is not None and patience <= limit:
        yield check_error(
            "zantara.E006",
            f"Redis hands a task out again after {patience} s, while one may run for {limit} s: it would run twice.",
            hint="Make visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS longer than CELERY_TASK_TIME_LIMIT.",
        )


def check_sqlite(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """SQLite holds several processes only with immediate transactions and a write-ahead log."""
    for alias, database in settings.DATABASES.items():
        if not str(database.get("ENGINE")).endswith(".sqlite3"):
            continue
        options = database.get("OPTIONS", {})
        if options.get("transaction_mode") != "IMMEDIATE":
            yield check_error(
                "zantara.E007",
                f"The SQLite database “{alias}” does not use immediate transactions: writers fail with "
                "“database is locked” instead of queueing.",
                hint="Set transaction_mode to IMMEDIATE in the database's OPTIONS.",
            )
        if "journal_mode=wal" not in options.get("init_command", "").lower().replace(" ", ""):
            yield check_error(
                "zantara.E008",
                f"The SQLite database “{alias}” has no write-ahead log: a reader blocks every writer.",
                hint="Begin init_command in the database's OPTIONS with PRAGMA journal_mode=WAL.",
            )


def register_house_checks() -> None:
    """Register the checks above: of the control plane alone, since a foreign project has a house of its own."""
    for check in (check_secrets, check_debug_is_local, check_celery, check_sqlite):
        checks.register(check, "zantara")
