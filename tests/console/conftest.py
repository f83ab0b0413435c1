"""The browser's fixtures, for the console's tests."""

from __future__ import annotations

from tests.browser import browser, console, page_factory, watch

__all__ = ["browser", "console", "page_factory", "watch"]
