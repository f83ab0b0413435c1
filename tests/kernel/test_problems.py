"""Problems for programs (RFC 9457)."""

from __future__ import annotations

import json

from controlplane.kernel.problems import problem_response


def test_a_problem_has_its_members_its_type_and_is_not_stored() -> None:
    response = problem_response(
        429,
        "Too many requests",
        "Wait — a little.",
        "/problems/limit",
        {"Retry-After": "7"},
        **{"violated-policies": ["a"]},
    )
    assert response.status_code == 429
    assert response["Content-Type"] == "application/problem+json"
    assert (response["Cache-Control"], response["Retry-After"]) == ("no-store", "7")
    assert json.loads(response.content) == {
        "type": "/problems/limit",
        "title": "Too many requests",
        "status": 429,
        "detail": "Wait — a little.",
        "violated-policies": ["a"],
    }


def test_a_problem_without_a_detail_has_no_empty_one() -> None:
    response = problem_response(405, "Method not allowed", headers={"Cache-Control": "max-age=1"})
    assert json.loads(response.content) == {"type": "about:blank", "title": "Method not allowed", "status": 405}
    assert response["Cache-Control"] == "max-age=1"
