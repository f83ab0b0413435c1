"""The three endpoints, and the answers for what is no address, no request or our own fault."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from controlplane.identity.caller import role_of
from controlplane.kernel.errors import Refused
from controlplane.kernel.problems import problem_response
from controlplane.monitoring.metrics import name_handler

from .config import release
from .handlers import ENDPOINTS, Handler, available, handlers
from .http import RequestRefused, answers, json_body, json_response
from .params import Params


@answers("GET", "HEAD", "POST")
def endpoint(request: HttpRequest, endpoint: str) -> HttpResponseBase:
    """GET says what there is; POST ``{"key": "<handler>", "params": {…}}`` runs a handler."""
    if request.method == "POST":
        body = json_body(request)
        key = body.get("key")
        handler = find_handler(endpoint, key)
        name_handler(request, handler.key)
        return json_response({"ok": True, "key": key, "result": run(handler, body.get("params", {}))})
    return json_response(
        {
            "service": "zantara",
            "endpoint": endpoint,
            "release": release(),
            "role": role_of(request),
            "handlers": [{"key": handler.key, "summary": handler.summary} for handler in available(endpoint)],
        }
    )


def find_handler(endpoint: str, key: object) -> Handler:
    """The handler that the body names; Refused if there is none of that name here."""
    known = ", ".join(handler.key for handler in available(endpoint))
    if not isinstance(key, str):
        raise Refused("key must be a text.", remedy=f"Known: {known}.")
    if key not in handlers or endpoint not in handlers.get(key).endpoints:
        raise RequestRefused(
            404, "No such handler", f"zantara.{endpoint} has no handler {key[:60]!r}.", remedy=f"Known: {known}."
        )
    return handlers.get(key)


def run(handler: Handler, params: object) -> Any:
    """Run the handler with ``params``; Refused if they do not fit it."""
    if not isinstance(params, dict):
        raise Refused("params must be an object.", remedy='Send "params": {…}, or leave it out.')
    return handler.run(Params(params))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    paths = ", ".join(f"/zantara.{name}" for name in ENDPOINTS)
    return problem_response(404, "Not found", f"There is nothing here. Known: {paths}.")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Django's own refusals, for example of a Host that ZANTARA_ALLOWED_HOSTS does not name."""
    return problem_response(
        400, "Bad request", "The request is malformed, or its Host is not one that ZANTARA_ALLOWED_HOSTS names."
    )


def server_error(request: HttpRequest) -> HttpResponseBase:
    return problem_response(500, "Internal server error", "Something broke here. Try again; the log says more.")
