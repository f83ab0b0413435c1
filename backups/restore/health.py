"""Whether the system is well after a restore: the health score of what answered before it, and of what it needs.

A service that did not answer before the restore is not asked for: it may be down for a reason of its own, or it
may be what the restore is to heal. One that did answer must answer again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
from django.conf import settings

from controlplane.kernel.registry import probes
from controlplane.monitoring import pressure
from controlplane.monitoring.health import score
from controlplane.monitoring.health.document import MOST_MEMORY_PERCENT, MOST_RESPONSE_MILLISECONDS
from controlplane.monitoring.health.probes import run_probe

#: What one answer may take; the probe of another machine may be slower than one of this.
ANSWER_SECONDS = 3.0
#: How long a system that was just started may take to be well.
PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """What a service said: whether it serves, and how long it took."""

    name: str
    serves: bool
    seconds: float
    detail: str


def addresses() -> dict[str, str]:
    """Name -> base address of the services that ``ZANTARA_SERVICES`` names."""
    found = {}
    for line in getattr(settings, "ZANTARA_SERVICES", ()):
        name, _, url = line.partition("=")
        parts = urlsplit(url.strip())
        if parts.scheme in ("http", "https") and parts.netloc:
            found[name.strip()] = f"{parts.scheme}://{parts.netloc}"
    return found


def answering() -> list[str]:
    """The services that serve now: what must serve after the restore too."""
    return [answer.name for answer in _ask(addresses()) if answer.serves]


def observe(expected: Sequence[str]) -> score.HealthScore:
    """One look. ``expected``: the services that served before; without any, the API is left out of the score."""
    known = addresses()
    answers = list(_ask({name: known[name] for name in expected if name in known}))
    observations = [*_of_services(expected, answers), *_of_database(), _of_memory(), *_of_vector_store()]
    seen = {observation.component for observation in observations}
    return score.health_score(observations, [part for part in score.COMPONENTS if part.name in seen])


def wait_for(
    expected: Sequence[str], least: int, *, patience_seconds: float = PATIENCE_SECONDS, check: Callable[[], None]
) -> score.HealthScore:
    """Look until the score suffices or patience ends; the last score. ``check`` may raise between two looks."""
    deadline = time.monotonic() + patience_seconds
    while True:
        check()
        seen = observe(expected)
        if seen.suffices(least) or time.monotonic() > deadline:
            return seen
        time.sleep(_PAUSE_SECONDS)


def _of_services(expected: Sequence[str], answers: Sequence[Answer]) -> Iterator[score.Observation]:
    if not expected:
        return
    silent = [name for name in expected if name not in {answer.name for answer in answers if answer.serves}]
    details = [answer.detail for answer in answers if not answer.serves] or [f"no address of {n}" for n in silent]
    yield score.Observation("api", "fail" if silent else "pass", "; ".join(details) if silent else "all serve")
    slowest = max((answer.seconds for answer in answers), default=0.0) * 1000
    slow = slowest >= MOST_RESPONSE_MILLISECONDS
    yield score.Observation("response_time", "fail" if slow else "pass", f"the slowest took {slowest:.0f} ms")


def _of_database() -> Iterator[score.Observation]:
    if "database" in probes:
        yield score.observe("database", run_probe(probes.get("database")))


def _of_memory() -> score.Observation:
    percent = pressure.current().memory_percent
    verdict: score.Verdict = "fail" if percent >= MOST_MEMORY_PERCENT else "pass"
    return score.Observation("memory", verdict, f"memory is at {percent:.0f} %")


def _of_vector_store() -> Iterator[score.Observation]:
    base = getattr(settings, "ZANTARA_CHROMA_URL", None)
    if base:
        answer = _get("vector store", f"{base.rstrip('/')}/api/v2/heartbeat")
        yield score.Observation("vector_store", "pass" if answer.serves else "fail", answer.detail)


def _ask(services: dict[str, str]) -> Iterator[Answer]:
    for name, base in services.items():
        yield _get(name, f"{base}/readyz")


def _get(name: str, url: str) -> Answer:
    """Any answer below 500 is one of a server that serves: a service of another make has no ``/readyz``."""
    begun = time.monotonic()
    try:
        encrypted = not url.startswith("http:")  # else no certificates need be read: that takes 50 ms
        answer = httpx2.get(url, timeout=ANSWER_SECONDS, trust_env=False, verify=encrypted, follow_redirects=False)
    except httpx2.HTTPError as error:
        return Answer(name, False, time.monotonic() - begun, f"{name} does not answer ({type(error).__name__})")
    return Answer(name, answer.status_code < 500, time.monotonic() - begun, f"{name} answered {answer.status_code}")
