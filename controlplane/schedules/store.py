"""What the schedules remember in Redis: beat's heartbeat and the last run of each schedule.

None of it is needed to run anything, so a Redis that is away costs the memory and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import redis
import structlog
from django.conf import settings

from controlplane.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

HEARTBEAT_KEY = "zantara:heartbeat:beat"
#: Far longer than a heartbeat may be late, so that a page can still say how late it is.
HEARTBEAT_TTL_SECONDS = 7 * 86400
LAST_RUN_TTL_SECONDS = 30 * 86400
_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True)
class LastRun:
    """How the last run of a schedule went. ``duration_seconds`` is None while it runs."""

    state: str  # running, success, failure
    task_id: str
    started_at: datetime
    duration_seconds: float | None = None
    error: str = ""  # the class of the exception; its text may hold anything and is not kept
    triggered_by: str = ""  # the user who ran it by hand; empty for beat


@lru_cache(maxsize=4)
def _connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS, decode_responses=True
    )


def client() -> redis.Redis:
    """This process's Redis, with short deadlines."""
    return _connect(settings.ZANTARA_REDIS_URL)


def _key(name: str) -> str:
    # A name may be long and hold any character; keys are short and plain.
    return f"zantara:schedule:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def write_heartbeat(at: datetime, worker: str) -> None:
    """Raises ``redis.RedisError``: a heartbeat that was not written is a failed run."""
    client().set(HEARTBEAT_KEY, json.dumps({"at": at.isoformat(), "worker": worker}), ex=HEARTBEAT_TTL_SECONDS)


def read_heartbeat() -> datetime | None:
    """When the last heartbeat went through; None if there was none. Raises :class:`Unavailable`."""
    try:
        stored = client().get(HEARTBEAT_KEY)
    except redis.RedisError as problem:
        raise Unavailable(f"Redis does not answer ({type(problem).__name__}).") from problem
    try:
        return datetime.fromisoformat(json.loads(str(stored))["at"]).astimezone(UTC) if stored else None
    except (ValueError, KeyError, TypeError):
        return None


def note_start(name: str, *, task_id: str, at: datetime, triggered_by: str) -> None:
    _write(
        name,
        {"state": "running", "task_id": task_id, "started_at": at.isoformat(), "triggered_by": triggered_by,
         "duration_seconds": "", "error": ""},
    )  # fmt: skip


def note_end(name: str, *, state: str, duration_seconds: float, error: str = "") -> None:
    _write(name, {"state": state, "duration_seconds": f"{duration_seconds:.3f}", "error": error})


def _write(name: str, fields: Mapping[str, str]) -> None:
    try:
        with client().pipeline(transaction=True) as pipe:
            pipe.hset(_key(name), mapping=fields)  # type: ignore[arg-type]  # str keys are keys
            pipe.expire(_key(name), LAST_RUN_TTL_SECONDS)
            pipe.execute()
    except redis.RedisError as problem:
        log.warning("last_run_not_noted", schedule=name, error=type(problem).__name__)


def last_runs(names: Sequence[str]) -> dict[str, LastRun]:
    """The last runs of these schedules in one round trip; without Redis, none are known."""
    if not names:
        return {}
    try:
        with client().pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(_key(name))
            answers: list[dict[str, Any]] = pipe.execute()
    except redis.RedisError as problem:
        log.warning("last_runs_not_read", error=type(problem).__name__)
        return {}
    found = ((name, _last_run(answer)) for name, answer in zip(names, answers, strict=True))
    return {name: run for name, run in found if run is not None}


def _last_run(fields: Mapping[str, str]) -> LastRun | None:
    try:
        duration = fields.get("duration_seconds", "")
        return LastRun(
            state=fields["state"],
            task_id=fields.get("task_id", ""),
            started_at=datetime.fromisoformat(fields["started_at"]),
            duration_seconds=float(duration) if duration else None,
            error=fields.get("error", ""),
            triggered_by=fields.get("triggered_by", ""),
        )
    except (KeyError, ValueError):
        return None
