"""``Idempotency-Key``: a request that is sent twice acts once and is answered twice the same.

The key's row is written in the transaction of the act itself. Of two that come at once the database lets one wait
for the other; one that fails leaves no key, since nothing was changed. Keys are a token's own and live 24 hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from ninja import Schema
from ninja.responses import NinjaJSONEncoder

from controlplane.kernel import clock

from .auth import caller
from .models import ApiToken, RememberedAnswer
from .problems import KeyReused, Malformed

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LIFE = timedelta(hours=24)
LONGEST = 200
_JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an act is answered: the row as it is now, and where it can be looked at."""

    body: Schema
    location: str
    status: int = 202


def once(request: HttpRequest, act: Callable[[], Accepted]) -> HttpResponse:
    """Carry out ``act``, or say again what it was answered. KeyReused where the key came with another request."""
    key = _key_of(request)
    if key is None:
        return _response(_as_row(act()))
    token, digest = caller(request), _digest_of(request)
    try:
        with transaction.atomic():
            row = _claim(token, key, digest)
            answer = _as_row(act())
            row.status, row.location, row.body = answer.status, answer.location, answer.body
            row.save(update_fields=["status", "location", "body"])
        return _response(row)
    except _Taken as taken:
        if taken.row.request_digest != digest:
            raise KeyReused(
                f"The {HEADER} {key!r} came with another request before.", remedy="Use a new key for each request."
            ) from None
        return _response(taken.row, replayed=True)


class _Taken(Exception):
    """No error: the answer is there already."""

    def __init__(self, row: RememberedAnswer) -> None:
        super().__init__()
        self.row = row


def _claim(token: ApiToken, key: str, digest: str) -> RememberedAnswer:
    """The key's row, written now; _Taken with the one that is there."""
    now = clock.now()
    RememberedAnswer.objects.filter(created_at__lt=now - LIFE).delete()
    row = RememberedAnswer(token=token, key=key, request_digest=digest, created_at=now)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        raise _Taken(RememberedAnswer.objects.get(token=token, key=key)) from None
    return row


def _key_of(request: HttpRequest) -> str | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not key.strip() or len(key) > LONGEST or not key.isascii() or not key.isprintable():
        raise Malformed(f"The {HEADER} is not readable.", remedy=f"Send 1 to {LONGEST} printable ASCII characters.")
    return key.strip()


def _digest_of(request: HttpRequest) -> str:
    head = f"{request.method} {request.get_full_path()}\n".encode()
    return sha256(head + request.body).hexdigest()


def _as_row(accepted: Accepted) -> RememberedAnswer:
    body = json.dumps(accepted.body.model_dump(), cls=NinjaJSONEncoder, ensure_ascii=False)
    return RememberedAnswer(status=accepted.status, location=accepted.location, body=body)


def _response(row: RememberedAnswer, *, replayed: bool = False) -> HttpResponse:
    response = HttpResponse(row.body, _JSON, status=row.status)
    response["Location"] = row.location
    if replayed:
        response[REPLAYED] = "true"
    return response
