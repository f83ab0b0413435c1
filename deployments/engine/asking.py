"""Asking instances whether they are ready, and for their health document: all at once, for a bounded time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import httpx2

#: One question; and all of a tick's together.
EACH_SECONDS = 1.0
ALL_SECONDS = 2.5
_MOST_AT_ONCE = 16
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """``document_path`` empty: it is not asked for one."""

    name: str
    host: str
    port: int
    health_path: str
    document_path: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What an instance answered. ``ready`` None: nothing came in time, which is not a no."""

    name: str
    ready: bool | None = None
    problem: str = ""
    document: dict[str, Any] | None = None
    document_problem: str = ""
    timed_out: bool = False


def ask(questions: Sequence[Question]) -> dict[str, Said]:
    """Name -> what it said; one that did not answer in time has ``ready`` None."""
    if not questions:
        return {}
    pool = ThreadPoolExecutor(min(_MOST_AT_ONCE, len(questions)), thread_name_prefix="asking")
    try:
        futures: dict[Future[Said], Question] = {pool.submit(_ask_one, one): one for one in questions}
        done, late = wait(futures, timeout=ALL_SECONDS)
        said = {future.result().name: future.result() for future in done}
        return said | {futures[one].name: Said(futures[one].name, problem="no answer", timed_out=True) for one in late}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ask_one(question: Question) -> Said:
    base = f"http://{question.host}:{question.port}"
    headers = {"User-Agent": "zantara-engine"}
    with httpx2.Client(timeout=EACH_SECONDS, trust_env=False, follow_redirects=False, headers=headers) as client:
        try:
            answer = client.get(base + question.health_path)
        except httpx2.TimeoutException:
            return Said(question.name, problem=f"{question.health_path} did not answer within {EACH_SECONDS:g} s",
                        timed_out=True)  # fmt: skip
        except httpx2.HTTPError as error:
            return Said(question.name, False, f"{question.health_path}: {_kind(error)}")
        ready, problem = _is_ready(question, answer)
        if not question.document_path:
            return Said(question.name, ready, problem)
        return _with_document(client, question, ready, problem)


def _is_ready(question: Question, answer: httpx2.Response) -> tuple[bool, str]:
    if 200 <= answer.status_code < 300:
        return True, ""
    if 300 <= answer.status_code < 400:
        return False, f"{question.health_path} redirects: give the path that it leads to"
    return False, f"{question.health_path} answers {answer.status_code}"


def _with_document(client: httpx2.Client, question: Question, ready: bool, problem: str) -> Said:
    """The document counts with whatever status it comes: it says itself whether all is well."""
    document, why, late = None, "", False
    try:
        answer = client.get(f"http://{question.host}:{question.port}{question.document_path}")
        found = json.loads(answer.content) if len(answer.content) <= _MOST_BYTES else None
        if isinstance(found, dict):
            document = found
        else:
            why = f"{question.document_path} gives no health document"
    except httpx2.TimeoutException:
        why, late = f"{question.document_path} did not answer within {EACH_SECONDS:g} s", True
    except httpx2.HTTPError as error:
        why = f"{question.document_path}: {_kind(error)}"
    except ValueError:
        why = f"{question.document_path} gives no JSON"
    return Said(question.name, ready, problem, document, why, late)


def _kind(error: Exception) -> str:
    return "refuses connections" if isinstance(error, httpx2.ConnectError) else "breaks the connection off"
