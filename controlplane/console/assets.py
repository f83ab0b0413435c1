"""Addresses of the console's own static files, asked for by the theme at each page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseRedirect
from django.templatetags.static import static


def favicon(request: HttpRequest) -> str:
    return static("console/favicon.svg")


def stylesheet(request: HttpRequest) -> str:
    return static("console/console.css")


def script(request: HttpRequest) -> str:
    return static("console/console.js")


def favicon_redirect(request: HttpRequest) -> HttpResponseRedirect:
    """Browsers ask for ``/favicon.ico`` by themselves, also on pages that name no icon."""
    return HttpResponseRedirect(favicon(request))
