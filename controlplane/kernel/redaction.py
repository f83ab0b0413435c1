"""Masking of secrets in text and data. Apart from the logs, so that a small program may have it without them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

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
#: A token of the API; its prefix is no secret.
_API_TOKEN = re.compile(r"\b(zt_[a-z0-9]{8}_)[\w-]{43}")
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
    if "zt_" in text:
        text = _API_TOKEN.sub(rf"\1{MASK}", text)
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
            str(name): MASK if masks(str(name), item) else redact(item, depth=depth + 1) for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth=depth + 1) for item in value]
    if isinstance(value, datetime | date | time | timedelta | UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    return redact_text(_described(value))


def masks(name: str, value: Any) -> bool:
    """Whether a value under this name is masked whole."""
    return value is not None and not isinstance(value, bool) and is_secret_key(name)


def _described(value: Any) -> str:
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001  (a value that cannot be printed must not take the line with it)
        return f"<{type(value).__name__}>"
