"""Logs: one line per event, in colour for a person or as JSON for a machine, with secrets masked.

Structlog's and the standard library's records (Django, Celery, granian) go through the same
processors. Lines go to standard error; standard output belongs to commands.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter

from .redaction import DEEPEST, MASK, is_secret_key, masks, redact, redact_text

__all__ = [
    "DEEPEST", "MASK", "build_formatter", "is_secret_key", "logging_config", "redact", "redact_text",
]  # fmt: skip


def redaction_processor(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask secrets in a whole event: its text, its values, and its rendered traceback."""
    for name, value in event.items():
        event[name] = MASK if masks(name, value) else redact(value)
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
