"""What every view shares: strict JSON, bounded bodies, and errors as ``application/problem+json``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn

import structlog
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase

from controlplane.kernel.errors import Refused, Unavailable
from controlplane.kernel.problems import problem_response

#: Enough for a handler's parameters. An import of vectors is streamed and has bounds of its own.
MOST_BODY_BYTES = 2**20

log = structlog.get_logger(__name__)


class RequestRefused(Refused):
    """A request that cannot be served as it was put, with the status that says why. Nothing was changed."""

    def __init__(
        self, status: int, title: str, message: str, *, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status, self.title, self.headers = status, title, dict(headers or {})


def answers(*methods: str) -> Callable[[Callable[..., HttpResponseBase]], Callable[..., HttpResponseBase]]:
    """A view for these methods whose refusals and absent servers become problem documents."""

    def decorate(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if request.method not in methods:
                    raise RequestRefused(
                        405,
                        "Method not allowed",
                        f"{request.path} does not answer {str(request.method)[:20]}.",
                        remedy=f"Use {' or '.join(methods)}.",
                        headers={"Allow": ", ".join(methods)},
                    )
                return view(request, *args, **kwargs)
            except RequestRefused as error:
                return problem_response(error.status, error.title, str(error), headers=error.headers)
            except Refused as error:
                return problem_response(400, "Bad request", str(error))
            except Unavailable as error:
                log.warning("request_unavailable", path=request.path, reason=error.message)
                return problem_response(503, "Service unavailable", str(error), headers={"Retry-After": "1"})

        return answer

    return decorate


def json_body(request: HttpRequest) -> dict[str, Any]:
    """The request's body, a JSON object of at most :data:`MOST_BODY_BYTES`; RequestRefused otherwise."""
    require_length(request)
    if int(request.META["CONTENT_LENGTH"]) > MOST_BODY_BYTES:
        raise RequestRefused(
            413,
            "Body too large",
            f"The body is larger than {MOST_BODY_BYTES} bytes.",
            remedy="Send less at once; POST /vectors/import takes many records.",
        )
    try:
        data = parse_json(request.body)
    except UnreadablePostError:
        raise Refused("The body broke off before its announced end.", remedy="Send it again.") from None
    if not isinstance(data, dict):
        raise Refused(
            f"The body is {_kind(data)}, not a JSON object.", remedy='Send {"key": "<handler>", "params": {…}}.'
        )
    return data


def require_length(request: HttpRequest) -> None:
    """A WSGI body without a length reads as empty; say so instead of acting on nothing."""
    if request.headers.get("Transfer-Encoding"):
        raise RequestRefused(
            411, "Length required", "The body has no Content-Length.", remedy="Send it whole, not in chunks."
        )
    if not request.META.get("CONTENT_LENGTH", "").isdigit():
        request.META["CONTENT_LENGTH"] = "0"


def parse_json(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, finite numbers, no lone surrogates; Refused says what is wrong."""
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_not_json, parse_float=_finite)
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"The body is not UTF-8 (byte {error.start}).", remedy="Encode it as UTF-8.") from None
    except UnicodeEncodeError:
        raise Refused("The body holds half of a surrogate pair.", remedy="Send both halves or neither.") from None
    except RecursionError:
        raise Refused("The body is nested too deeply.", remedy="Flatten it.") from None
    except ValueError as error:
        raise Refused(f"The body is not JSON: {error}.", remedy="Send one JSON object.") from None
    return data


def json_response(data: Mapping[str, Any], status: int = 200) -> HttpResponse:
    return HttpResponse(
        json.dumps(data, ensure_ascii=False, allow_nan=False), content_type="application/json", status=status
    )


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _kind(data: object) -> str:
    return {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(data), "a number")
