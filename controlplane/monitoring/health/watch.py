"""The latest answer to a question that may take long: asked on a thread of its own, given again for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from controlplane.kernel import clock

T = TypeVar("T")
logger = structlog.get_logger(__name__)


class Watch(Generic[T]):
    """Asks at most once at a time and at most every ``fresh_seconds``, and only while somebody wants to know.

    An answer older than ``stale_seconds`` is no longer given: None says that nothing is known.
    """

    def __init__(self, ask: Callable[[], T], *, fresh_seconds: float, stale_seconds: float) -> None:
        self._ask, self._fresh_seconds, self._stale_seconds = ask, fresh_seconds, stale_seconds
        self.forget()

    def forget(self) -> None:
        """Begin anew; also what a forked process does, which has not the thread."""
        self._lock = threading.Lock()
        self._answer: tuple[float, T] | None = None
        self._asking: threading.Thread | None = None

    def latest(self, *, wait_seconds: float, brief_wait_seconds: float) -> T | None:
        """The latest answer: at once if it is fresh; otherwise a new one if it comes within the brief wait, else
        the last. With none to fall back on, waits up to ``wait_seconds``.
        """
        with self._lock:
            age = self._age()
            if self._answer is not None and age < self._fresh_seconds:
                return self._answer[1]
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._work, name="health-watch", daemon=True)
                self._asking.start()
            asking = self._asking
        asking.join(brief_wait_seconds if age < self._stale_seconds else wait_seconds)
        with self._lock:
            return self._answer[1] if self._answer is not None and self._age() < self._stale_seconds else None

    def _age(self) -> float:
        return clock.monotonic() - self._answer[0] if self._answer is not None else float("inf")

    def _work(self) -> None:
        try:
            answer = self._ask()
        except Exception:  # the asker learns that nothing is known; the reason goes to the log
            logger.warning("health_question_failed", exc_info=True)
            return
        with self._lock:
            self._answer = (clock.monotonic(), answer)
