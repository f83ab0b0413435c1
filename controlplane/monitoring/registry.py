"""Every metric of the project, declared once: name, kind, labels, help. Nothing else makes a metric.

With ``PROMETHEUS_MULTIPROC_DIR`` set before this is imported, all processes of a service count into files of
that directory, and any of them answers for all (see :mod:`.compaction`). Without it each process counts alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import prometheus_client
import structlog
from prometheus_client import values

from controlplane.kernel.errors import ConfigurationError
from controlplane.kernel.registry import Registry

from . import compaction, processes
from .catalogue import METRICS, Spec

log = structlog.get_logger(__name__)

#: What a label says once its metric has as many series as it may have.
OVERFLOW = "<overflow>"
LONGEST_LABEL = 200
#: A process that starts tidies up when it finds this many files, so that a service that nobody scrapes stays small.
MOST_FILES = 64

SPECS = {spec.name: spec for spec in METRICS}


def folder() -> Path | None:
    """Where the processes of this service count together; None where each counts alone."""
    name = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(name) if name else None


def _identity() -> str:
    pid, started = processes.me()
    return f"{pid}-{started}"


def _share_files() -> None:
    """Name the files of this process after its number and its start, for numbers come back; tidy up."""
    where = folder()
    if where is None:
        return
    where.mkdir(parents=True, exist_ok=True)
    values.ValueClass = values.MultiProcessValue(_identity)  # type: ignore[no-untyped-call]
    compaction.tidy(where, most_files=MOST_FILES)


_share_files()

M = TypeVar("M", prometheus_client.Counter, prometheus_client.Histogram, prometheus_client.Gauge)


class _Lost:
    """Takes what cannot be counted: a broken directory must not break requests."""

    def nothing(self, *_: object) -> None: ...

    inc = observe = set = nothing


class Family(Generic[M]):
    """One metric and its series. Thread-safe; a series is looked up once and then kept.

    ``labels`` is a tuple in the order of the declaration. Beyond ``spec.most_series`` everything is counted
    under ``<overflow>``.
    """

    def __init__(self, spec: Spec, make: Callable[[], M]) -> None:
        self.spec = spec
        self._make: Callable[[], M] = make
        self._metric: M | None = None
        self._children: dict[tuple[str, ...], M] = {}
        self._lock = threading.Lock()

    def child(self, labels: tuple[str, ...] = ()) -> M:
        try:
            return self._children[labels]
        except KeyError:
            return self._new_child(labels)

    def _new_child(self, labels: tuple[str, ...]) -> M:
        if len(labels) != len(self.spec.labels):
            raise ConfigurationError(f"{self.spec.name} has the labels {self.spec.labels}, not {len(labels)} of them.")
        with self._lock:
            known = self._children
            full = len(known) >= self.spec.most_series
            wanted = (OVERFLOW,) * len(labels) if full and labels else labels
            try:
                if self._metric is None:
                    self._metric = self._make()
                child = self._metric.labels(*map(_clean, wanted)) if labels else self._metric
            except OSError as error:
                log.error("metric_series_lost", metric=self.spec.name, error=str(error))
                return _Lost()  # type: ignore[return-value]
            if not full:
                known[labels] = child
            return child


class Counter(Family[prometheus_client.Counter]):
    def add(self, labels: tuple[str, ...] = (), amount: float = 1.0) -> None:
        self.child(labels).inc(amount)


class Histogram(Family[prometheus_client.Histogram]):
    def observe(self, labels: tuple[str, ...], value: float) -> None:
        self.child(labels).observe(exact(value))


class Gauge(Family[prometheus_client.Gauge]):
    """A gauge that a process sets. Of several processes the largest value counts; a dead one's does not."""

    def set(self, labels: tuple[str, ...], value: float) -> None:
        self.child(labels).set(value)


def exact(value: float) -> float:
    """``value`` rounded to 2**-20 (about a millionth).

    Sums of such numbers are exact up to 2**33, in whatever order the processes' parts are added: a sum that
    differs in the last digit from scrape to scrape would look like a counter that went back.
    """
    return int(value * 1048576.0 + 0.5) * 9.5367431640625e-07


def _clean(value: str) -> str:
    return value[:LONGEST_LABEL].encode("utf-8", "replace").decode()


def _spec(name: str, kind: str, *, at: str = "process") -> Spec:
    spec = SPECS.get(name)
    if spec is None or spec.kind != kind or spec.at != at:
        raise ConfigurationError(
            f"No {kind} named {name!r} is declared.", remedy="Declare it in controlplane/monitoring/catalogue.py."
        )
    return spec


_families: dict[str, Any] = {}


def counter(name: str) -> Counter:
    """The counter of that name; ConfigurationError if none is declared."""
    spec = _spec(name, "counter")
    return _once(spec, lambda: Counter(spec, lambda: prometheus_client.Counter(name, spec.help, spec.labels)))


def histogram(name: str) -> Histogram:
    spec = _spec(name, "histogram")
    return _once(
        spec,
        lambda: Histogram(
            spec, lambda: prometheus_client.Histogram(name, spec.help, spec.labels, buckets=spec.buckets)
        ),
    )


def gauge(name: str) -> Gauge:
    """A gauge that processes set themselves; one that is read at the scrape is a :class:`Reading`."""
    spec = _spec(name, "gauge")
    return _once(
        spec,
        lambda: Gauge(spec, lambda: prometheus_client.Gauge(name, spec.help, spec.labels, multiprocess_mode="livemax")),
    )


F = TypeVar("F", Counter, Histogram, Gauge)


def _once(spec: Spec, make: Callable[[], F]) -> F:
    family = _families.get(spec.name)
    if family is None:
        family = _families.setdefault(spec.name, make())
    return family  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of a gauge that is read at the scrape; ``labels`` in the order of its declaration."""

    name: str
    value: float
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(_spec(self.name, "gauge", at="scrape").labels):
            raise ConfigurationError(f"{self.name} has other labels than {self.labels}.")


Collect = Callable[[], Iterable[Reading]]
#: Who is asked at each scrape. A collector is quick (it has a fraction of the scrape's 50 ms) and may raise: its
#: gauges are then absent and the failure is counted.
collectors: Registry[Collect] = Registry("metrics collector")
Kind = Literal["counter", "histogram", "gauge"]
