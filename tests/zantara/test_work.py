"""``/_work``: a request of a known cost, for callers on this machine only."""

from __future__ import annotations

import time
from typing import Any

import pytest


def test_work_takes_as_long_as_it_was_told(service: Any) -> None:
    began = time.monotonic()
    answer = service.get("/_work?io_ms=200&cpu_ms=5")
    assert (answer.status_code, answer.json()) == (200, {"cpu_ms": 5.0, "io_ms": 200.0})
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("query", ["cpu_ms=-1", "io_ms=x", "cpu_ms=10001", "io_ms=nan"])
def test_nonsense_is_refused(service: Any, query: str) -> None:
    assert service.get(f"/_work?{query}").status_code == 400


def test_a_caller_from_elsewhere_orders_no_work(service: Any) -> None:
    answer = service.get("/_work?io_ms=1", headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == 403
