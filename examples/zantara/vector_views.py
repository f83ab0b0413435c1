"""All vectors out and in again, as NDJSON: what a backup of this service's memory is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator

import structlog
from django.http import HttpRequest, StreamingHttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase

from controlplane.identity.caller import caller_of
from controlplane.kernel.errors import Refused, Unavailable

from . import ndjson
from .http import RequestRefused, answers, json_response, require_length
from .vectors import Mode, Record, VectorStore, store

KEEPER_ROLE = "AI Bridge/Tech Lead"

log = structlog.get_logger(__name__)


@answers("GET")
def export(request: HttpRequest) -> HttpResponseBase:
    """Every record, sorted by id, a line each. What is there all along comes exactly once.

    With ``?end=count`` a last line, ``{"end": {"records": …}}``, says that this was all.
    """
    _require_keeper(request)
    count_at_end = _end(request)
    vectors = store()
    # Ask for the first page before the status line is sent: a Redis that is away is a 503, not half a file.
    first = vectors.page(None)
    return StreamingHttpResponse(_all_lines(vectors, first, count_at_end), content_type="application/x-ndjson")


@answers("POST")
def import_(request: HttpRequest) -> HttpResponseBase:
    """Add to (``?mode=merge``, the default) or replace (``?mode=replace``) all records, wholly or not at all."""
    caller = _require_keeper(request)
    mode = _mode(request)
    require_length(request)
    try:
        came, total = store().import_all(ndjson.from_lines(ndjson.lines(request.read)), mode)
    except UnreadablePostError:
        raise Refused("The body broke off before its announced end.", remedy="Send it again.") from None
    log.info("vectors_imported", records=came, total=total, mode=mode, subject=caller)
    return json_response({"ok": True, "mode": mode, "imported": came, "total": total})


def _all_lines(vectors: VectorStore, page: list[Record], count_at_end: bool) -> Iterator[bytes]:
    """The lines; after a fault in their midst a last one, ``{"error": …}``, that no import accepts.

    Raising would not do: granian then ends the body as if it were complete.
    """
    count = 0
    try:
        while page:
            yield b"".join(ndjson.to_line(record) for record in page)
            count += len(page)
            page = vectors.page(page[-1].id)
        if count_at_end:
            yield ndjson.end_line(count)
    except Unavailable as error:
        log.error("vectors_export_broken_off", reason=error.message)
        yield json.dumps({"error": f"This export is incomplete. {error}"}).encode() + b"\n"


def _require_keeper(request: HttpRequest) -> str:
    """The subject of a caller who may read and write everything; RequestRefused for anybody else."""
    caller = caller_of(request)
    if caller.kind == "anonymous":
        raise RequestRefused(
            401,
            "Authentication required",
            "All vectors at once are for authenticated callers only.",
            remedy=f"Send a bearer token of the role {KEEPER_ROLE}.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if KEEPER_ROLE not in (caller.role, *caller.roles):
        raise RequestRefused(
            403,
            "Forbidden",
            f"The role {caller.role} may not read or write all vectors at once.",
            remedy=f"Ask for the role {KEEPER_ROLE}.",
        )
    return caller.subject


def _end(request: HttpRequest) -> bool:
    end = request.GET.get("end", "")
    if end not in {"", "count"}:
        raise Refused(f"There is no end {end[:20]!r}.", remedy="Use ?end=count, or leave it out.")
    return end == "count"


def _mode(request: HttpRequest) -> Mode:
    mode = request.GET.get("mode", "merge")
    if mode == "merge":
        return "merge"
    if mode == "replace":
        return "replace"
    raise Refused(f"There is no mode {mode[:20]!r}.", remedy="Use ?mode=merge or ?mode=replace.")
