"""``POST /auth/token``: a Django user's name and password for a bearer token with his role."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import structlog
from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from controlplane.kernel.errors import ConfigurationError, Refused
from controlplane.kernel.problems import problem_response

from .caller import role_of_user
from .config import token_settings
from .tokens import issue

log = structlog.get_logger(__name__)

#: A name and a password of the greatest length that Django's forms take fit into a quarter of it.
MOST_BODY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)


class _BadRequest(Refused):
    """The request is not one for a token; ``status`` is the HTTP status that says why."""

    def __init__(self, status: int, title: str, remedy: str) -> None:
        super().__init__(title, remedy=remedy)
        self.status = status


@csrf_exempt  # nothing here is authorised by a cookie
def token_view(request: HttpRequest) -> HttpResponse:
    """The token endpoint. Unknown user, wrong password and inactive user get the same answer for the same work."""
    if request.method != "POST":
        return problem_response(405, "Method not allowed", "Send a POST.", headers={"Allow": "POST"})
    try:
        credentials = _read_credentials(request)
    except _BadRequest as refusal:
        return problem_response(refusal.status, refusal.message, refusal.remedy)
    user = authenticate(request, username=credentials.username, password=credentials.password)
    if user is None or not user.is_active:
        return problem_response(
            401,
            "Wrong user name or password",
            "No active user has this name and this password.",
            headers={"WWW-Authenticate": 'Bearer realm="zantara"'},
        )
    role, ttl_seconds = role_of_user(user), token_settings().ttl_seconds
    try:
        token = issue(user.get_username(), role, ttl_seconds)
    except ConfigurationError as error:
        return problem_response(501, "Tokens are not issued here", str(error))
    log.info("token_issued", subject=user.get_username(), role=role)
    answer = {"access_token": token, "token_type": "Bearer", "expires_in": int(ttl_seconds), "role": role}
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def _read_credentials(request: HttpRequest) -> Credentials:
    """Name and password from a JSON body of bounded size."""
    if request.content_type != "application/json":
        raise _BadRequest(415, "JSON is expected", "Send the content type application/json.")
    body = request.read(MOST_BODY_BYTES + 1)
    if len(body) > MOST_BODY_BYTES:
        raise _BadRequest(413, "The body is too long", f"Send at most {MOST_BODY_BYTES} bytes.")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _BadRequest(400, "The body is not JSON", 'Send {"username": "…", "password": "…"}.') from None
    values = (data.get("username"), data.get("password")) if isinstance(data, dict) else (None, None)
    username, password = values
    if not isinstance(username, str) or not isinstance(password, str) or not _is_text(username + password):
        raise _BadRequest(
            400, "A user name and a password are expected", 'Send {"username": "…", "password": "…"}, both text.'
        )
    return Credentials(username, password)


def _is_text(value: str) -> bool:
    """Text that a database and a password hasher can take: no NUL, no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
