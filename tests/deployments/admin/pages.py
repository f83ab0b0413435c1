"""How the tests read and press what the pages show."""

from __future__ import annotations

from typing import Any

from django.test import Client
from django.urls import reverse

from tests.backups.admin.pages import part, row_of, text_of, words

__all__ = ["HISTORY", "RELEASES", "SERVICES", "change", "messages_of", "part", "press", "row_of", "text_of", "words"]

HISTORY = "/admin/deployments/deployment/"
SERVICES = "/admin/deployments/service/"
RELEASES = "/admin/deployments/release/"


def change(model: str, pk: int) -> str:
    return reverse(f"admin:deployments_{model}_change", args=(pk,))


def press(client: Client, action: str, pk: int | None = None, *, model: str = "deployment", **typed: Any) -> Any:
    """Submit a dialog, as its button does."""
    url = reverse(f"admin:deployments_{model}_{action}", args=() if pk is None else (pk,))
    return client.post(url, {"_form_submitted": "True", **typed}, headers={"HX-Request": "true"})


def messages_of(client: Client) -> list[str]:
    """What the last act said, as the next page would show it."""
    page = client.get("/admin/system/")
    return [str(message) for message in page.context["messages"]]
