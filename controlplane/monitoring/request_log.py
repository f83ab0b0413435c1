"""Who made a request, in its log lines, without looking at the session on the log's behalf."""

from __future__ import annotations

from typing import Any

import structlog
from django.http import HttpRequest


def bind_known_user(request: HttpRequest, **_: Any) -> None:
    """Name the session's user if the view has looked at him; otherwise nobody asks the database for him."""
    user = getattr(request, "_cached_user", None)
    if user is not None and user.is_authenticated:
        structlog.contextvars.bind_contextvars(user_id=user.pk)


def connect() -> None:
    """Listen to django-structlog's signals; call it in ``AppConfig.ready()``."""
    from django_structlog import signals

    for signal in (signals.bind_extra_request_finished_metadata, signals.bind_extra_request_failed_metadata):
        signal.connect(bind_known_user, dispatch_uid="zantara-request-user")
