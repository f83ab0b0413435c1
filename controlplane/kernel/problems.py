"""Refusals that a program can read: ``application/problem+json`` (RFC 9457).

One constructor for the whole project, so that a 401, a 429 and a 503 have the same shape. It needs Django
alone and works in any Django project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse

CONTENT_TYPE = "application/problem+json"


def problem_response(
    status: int,
    title: str,
    detail: str = "",
    type: str = "about:blank",
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> HttpResponse:
    """A response with the members of RFC 9457 and, after them, the extension ``members``.

    ``title`` is the same for every problem of this ``type``; ``detail`` speaks of this one and may be
    empty. A member whose name is no Python name is given as ``**{"violated-policies": [...]}``. A problem
    is never stored by a cache unless ``headers`` says otherwise. Neither text may hold a secret.
    """
    body: dict[str, Any] = {"type": type, "title": title, "status": status}
    if detail:
        body["detail"] = detail
    body.update(members)
    response = HttpResponse(json.dumps(body, ensure_ascii=False), status=status, content_type=CONTENT_TYPE)
    response["Cache-Control"] = "no-store"
    for name, value in (headers or {}).items():
        response[name] = value
    return response
