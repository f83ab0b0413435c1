"""The documentation inside the admin: ``docs/*.md`` and the images beside them, read-only."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from controlplane.console.base import OpsAdminSite

from .markdown import page_title, render_page

DOCS_FOLDER = Path(__file__).resolve().parents[3] / "docs"
IMAGE_SUFFIXES = frozenset({".png", ".svg", ".jpg", ".jpeg", ".webp", ".gif"})


def docs_url(reference: str) -> str:
    """The admin's address for ``docs/limits.md#burst`` (also ``limits`` or ``limits.md``); "" for ""."""
    if not reference or "://" in reference:
        return reference
    page, _, anchor = reference.removeprefix("docs/").partition("#")
    address = reverse("admin:docs", args=(page.removesuffix(".md"),))
    return f"{address}#{anchor}" if anchor else address


def find_file(name: str, folder: Path) -> Path:
    """The file of this name below ``folder``; Http404 for anything outside it, by whatever way, or missing."""
    path = (folder / name).resolve()
    if "\0" in name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise Http404
    return path


def list_pages(current: str) -> list[dict[str, object]]:
    """All pages by title, the first-run page first."""
    files = sorted(DOCS_FOLDER.rglob("*.md")) if DOCS_FOLDER.is_dir() else []
    entries = []
    for file in files:
        name = file.relative_to(DOCS_FOLDER).with_suffix("").as_posix()
        title = page_title(file.read_text(encoding="utf-8"), name)
        entries.append({"name": name, "title": title, "url": docs_url(name), "current": name == current})
    return sorted(entries, key=lambda entry: (entry["name"] != "first-run", "/" in str(entry["name"]), entry["name"]))


def page(request: HttpRequest, name: str = "") -> HttpResponse:
    """One page of the documentation beside the list of all; without a name, the first."""
    from django.contrib import admin

    site: OpsAdminSite = admin.site  # type: ignore[assignment]  # ConsoleConfig puts ours there
    entries = list_pages(name)
    if not name and entries:
        return HttpResponseRedirect(str(entries[0]["url"]))
    context = {**site.each_context(request), "title": "Documentation", "entries": entries}
    if name:
        try:
            text = find_file(f"{name}.md", DOCS_FOLDER).read_text(encoding="utf-8")
        except (ValueError, OSError) as unreadable:
            raise Http404 from unreadable
        rendered = render_page(text, page=name, root=reverse("admin:docs_index"))
        context |= {"html": rendered.html, "subtitle": rendered.title}
    return render(request, "console/docs.html", context)


def image(request: HttpRequest, name: str) -> FileResponse:
    """A picture beside the pages."""
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise Http404
    try:
        file = find_file(name, DOCS_FOLDER / "images")
    except ValueError as unreadable:
        raise Http404 from unreadable
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    response = FileResponse(file.open("rb"), content_type=kind)
    # An SVG opened by itself could run scripts of its own; in the page it is only a picture.
    response["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return response
