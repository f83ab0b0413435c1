"""How the tests read and press what the pages show."""

from __future__ import annotations

import html
import re
from typing import Any

from django.test import Client
from django.urls import reverse

HISTORY = "/admin/backups/backuprecord/"


def words(page: str) -> str:
    """The words of a piece of a page, without tags, scripts and the names of icons."""
    shown = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    shown = re.sub(r'<span class="material-symbols-outlined[^>]*>[^<]*</span>', " ", shown)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def text_of(response: Any) -> str:
    """The words of a page."""
    return words(response.content.decode())


def part(response: Any, pattern: str) -> str:
    """The words of the first part of the page that the pattern matches."""
    found = re.search(pattern, response.content.decode(), re.DOTALL)
    assert found is not None, f"nothing like {pattern}"
    return words(found[0])


def row_of(response: Any, name: str) -> str:
    """The words of the list's row in which this stands."""
    rows = re.findall(r'<tr class="data-row.*?</tr>', response.content.decode(), re.DOTALL)
    mine = [row for row in rows if re.search(rf">\s*{re.escape(name)}\s*<", row)]
    assert len(mine) == 1, f"{len(mine)} rows of {name}"
    return words(mine[0])


def change(model: str, pk: int) -> str:
    return reverse(f"admin:backups_{model}_change", args=(pk,))


def press(client: Client, action: str, pk: int | None = None, *, model: str = "backuprecord", **typed: Any) -> Any:
    """Submit a dialog, as its button does."""
    url = reverse(f"admin:backups_{model}_{action}", args=() if pk is None else (pk,))
    return client.post(url, {"_form_submitted": "True", **typed}, headers={"HX-Request": "true"})


def messages_of(client: Client) -> list[str]:
    """What the last act said, as the next page would show it."""
    page = client.get("/admin/backups/controlledservice/")
    return [str(message) for message in page.context["messages"]]
