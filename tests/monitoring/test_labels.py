"""Labels have few values, whatever callers make up."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from controlplane.monitoring.exposition import exposition
from tests.monitoring.counting import value, values


@pytest.fixture
def service(settings: Any) -> Client:
    settings.MIDDLEWARE, settings.ROOT_URLCONF = (
        ["controlplane.monitoring.middleware.MonitoringMiddleware",
         "controlplane.identity.middleware.IdentityMiddleware"],
        "tests.monitoring.test_middleware",
    )  # fmt: skip
    return Client(raise_request_exception=False)


def series() -> int:
    return sum(1 for name, _ in values(exposition()[0]) if name.startswith("zantara_request"))


def test_made_up_methods_and_paths_are_one_series(service: Client) -> None:
    def ask(number: int) -> None:
        service.generic(f"METHOD{number}", f"/made/up/{number}")

    ask(0)
    before = series()
    for number in range(1, 50):
        ask(number)
    assert series() == before
    assert value(exposition()[0], "zantara_requests_total", method="<other>", route="<unmatched>", status="404") >= 50


def test_a_refused_request_has_the_route_that_it_asked_for(service: Client) -> None:
    before = value(exposition()[0], "zantara_requests_total", status="401", route="/toy/swift")
    headers = {"authorization": "Bearer nonsense"}
    assert service.get("/toy/swift", headers=headers).status_code == 401
    assert service.get("/made/up/1", headers=headers).status_code == 401
    text = exposition()[0]
    assert value(text, "zantara_requests_total", status="401", route="/toy/swift") == before + 1
    assert value(text, "zantara_requests_total", status="401", route="/made/up/1") == 0
    assert value(text, "zantara_requests_total", status="401", route="<unmatched>") >= 1


@pytest.mark.django_db
def test_somebody_with_a_session_is_not_called_anonymous(client: Client, django_user_model: Any) -> None:
    client.force_login(django_user_model.objects.create_superuser("anna", password="a long pass phrase"))
    assert client.get("/admin/", follow=True).status_code == 200
    assert value(exposition()[0], "zantara_requests_total", user_role="session", status="200") >= 1
