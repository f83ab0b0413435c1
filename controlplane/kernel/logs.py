"""Logs: one line per event, in colour for a person or as JSON for a machine, with secrets masked.

Structlog's and the standard library's records (Django, Celery, granian) go through the same
processors. Lines go to standard error; standard output belongs to commands.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

import structlog
from structlog.stdlib import ProcessorFormatter

MASK = "***"
#: Deeper than this a value is left out: a structure that contains itself must not stop a log line.
DEEPEST = 8

_SECRET_KEY = re.compile(
    r"pass(?:word|wd|phrase|code)|secret|token|authori[sz]ation|cookie|credential|api_?key|"
    r"(?:private|signing|encryption|access|hmac|jwt|secret|identity)_?key|key_?material|session_?key|csrf",
    re.IGNORECASE,
)
#: Names that look secret and are not: counts, names and places of secrets, and the fencing token of a lease.
_PLAIN_KEY = re.compile(
    r"(?:^|_)(?:id|file|files|path|count|version|type|name|names|seconds|bytes|at|hash|set)$|^(?:lease|fencing)_token$",
    re.IGNORECASE,
)
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_BEARER = re.compile(r"\b(bearer)\s+(?!realm=|error|scope=)[\w.~+/-]+=*", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest)\s+)?+)(?!\*\*\*)[^\s\"',;]+", re.IGNORECASE
)
# The password may hold an @ of its own: everything up to the last one before the path is taken.
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@\"'<>]*):[^\s/\"'<>]+@", re.IGNORECASE)
_URL_TOKEN = re.compile(r"(https?://)[^\s:/@\"'<>]+@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:password|passwd|passphrase|secret|token|api_?key|(?:private|signing|secret|access)_key|sessionid|csrf\w*)"
    r"[\"']?\s?[=:]\s?[\"']?)(?!\*\*\*)[^\s&\"',;)}\]]+",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)|AGE-SECRET-KEY-1[0-9A-Z]+", re.DOTALL
)


@lru_cache(maxsize=4096)
def is_secret_key(name: str) -> bool:
    """Whether a value under this name is masked whatever it is."""
    return _SECRET_KEY.search(name) is not None and _PLAIN_KEY.search(name) is None


def redact_text(text: str) -> str:
    """The text without JWTs, bearer tokens, passwords in URLs, private keys and ``password=…`` pairs."""
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    if "://" in text and "@" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        text = _URL_TOKEN.sub(rf"\1{MASK}@", text)
    if " " in text or ":" in text or "=" in text:
        text = _BEARER.sub(rf"\1 {MASK}", text)
        if ":" in text or "=" in text:
            text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
            text = _ASSIGNED.sub(rf"\1{MASK}", text)
    if "-----BEGIN" in text or "AGE-SECRET-KEY-" in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    return text


def redact(value: Any, *, depth: int = 0) -> Any:
    """The value as plain data with every secret masked, at any depth; for logs, pages and error details."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth >= DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(name): MASK if _masks(str(name), item) else redact(item, depth=depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth=depth + 1) for item in value]
    if isinstance(value, datetime | date | time | timedelta | UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    return redact_text(_described(value))


def _masks(name: str, value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and is_secret_key(name)


def _described(value: Any) -> str:
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001  (a value that cannot be printed must not take the line with it)
        return f"<{type(value).__name__}>"


def redaction_processor(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask secrets in a whole event: its text, its values, and its rendered traceback."""
    for name, value in event.items():
        event[name] = MASK if _masks(name, value) else redact(value)
    return event


def one_line_processor(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write control characters in the message as escapes, so that a caller's text can neither forge a line nor
    move the cursor. For the console only: it quotes values by itself, and JSON escapes everything.
    """
    text = event.get("event")
    if isinstance(text, str) and not text.isprintable():
        event["event"] = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return event


#: One list for the life of the process: bound loggers hold on to it, and tests swap its contents.
_STRUCTLOG_PROCESSORS: list[Any] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    ProcessorFormatter.wrap_for_formatter,
]


def _foreign_processors() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


#: Lines that say only that a tick ticked or that a request or task began: its end, or its failure, is logged too,
#: and the schedules' page shows the last run of each task.
_ROUTINE_EVENTS = frozenset({"task_enqueued", "task_started", "task_succeeded", "request_started"})
_ROUTINE_REQUESTS = re.compile(r"GET /(?:livez|readyz|health|metrics|favicon\.ico|static/|admin/start/)")


class RoutineFilter(logging.Filter):
    """Leaves routine out at INFO, so that what an operator reads is what happened. DEBUG shows everything."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = None  # a stranger's wrong Host is one line, not thirty; the traceback is always Django's
        if record.levelno != logging.INFO:
            return True
        if isinstance(record.msg, dict):
            event = record.msg
            if event.get("event") == "request_finished":
                return not (_ROUTINE_REQUESTS.match(str(event.get("request"))) and event.get("code", 500) < 400)
            return event.get("event") not in _ROUTINE_EVENTS
        return not (record.name == "celery.beat" and str(record.msg).startswith("Scheduler: Sending due task"))


def build_formatter(form: str, colours: bool | None = None) -> ProcessorFormatter:
    """The formatter of every handler. ``colours`` None: on a terminal, unless NO_COLOR is set."""
    if colours is None:
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    last: list[Any] = (
        [structlog.processors.JSONRenderer(ensure_ascii=False)]
        if form == "json"
        else [one_line_processor, structlog.dev.ConsoleRenderer(colors=colours)]
    )
    return ProcessorFormatter(
        foreign_pre_chain=_foreign_processors(),
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redaction_processor,
            *last,
        ],
    )


def logging_config(form: str, level: str) -> dict[str, Any]:
    """What ``logging.config.dictConfig`` takes, for ``form`` ``console`` or ``json``; sets structlog up too.

    It is plain data, so it can also be written to a file for a server's ``--log-config``.
    """
    structlog.configure(
        processors=_STRUCTLOG_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    through: dict[str, Any] = {"handlers": [], "propagate": True, "level": "NOTSET"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": "controlplane.kernel.logs.build_formatter", "form": form}},
        "filters": {"routine": {"()": "controlplane.kernel.logs.RoutineFilter"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "lines",
                "filters": [] if level == "DEBUG" else ["routine"],
            }
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Libraries that bring handlers of their own: theirs are taken off, their lines come through ours.
            **{name: dict(through) for name in ("django", "django.server", "_granian", "granian.access", "celery")},
            # What django-structlog says already, with the request's or the task's id.
            "django.request": {"level": "ERROR"},
            "celery.app.trace": {"level": "ERROR"},
            "celery.worker.strategy": {"level": "WARNING"},
            # A line for each call to a server is noise.
            **{name: {"level": "WARNING"} for name in ("httpx", "httpx2", "httpcore", "urllib3", "botocore", "docker")},
        },
    }
