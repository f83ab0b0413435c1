"""The whole stack as ``make run`` starts it, and a browser in front of it."""

from __future__ import annotations

from tests.browser import browser, page_factory, watch
from tests.stack import stack

__all__ = ["browser", "page_factory", "stack", "watch"]
