"""Prometheus' text exposition as plain data, and what two scrapes of one service say about the time between.

Pure: text in, frozen data out. A series is a sample name with its labels; the parts of a histogram are
series of their own (``…_bucket``, ``…_sum``, ``…_count``), as in the text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from controlplane.kernel.errors import Refused

#: The labels of one series, sorted by name.
Labels = tuple[tuple[str, str], ...]
#: Values of the series of one sample name.
Series = Mapping[Labels, float]
#: (upper bound in the metric's unit, observations up to it), rising; the last bound is infinity.
Buckets = tuple[tuple[float, float], ...]

BUCKET, SUM, COUNT = "_bucket", "_sum", "_count"
#: When a series was made, as some libraries add it to each: no measurement.
CREATED = "_created"
#: Kinds whose series only grow; ``le`` belongs to the parts of one histogram.
GROWING = frozenset({"counter", "histogram", "summary"})
_NOTHING: Series = MappingProxyType({})


def labels_of(series: Labels) -> dict[str, str]:
    """The labels as a dictionary."""
    return dict(series)


def matches(series: Labels, wanted: Mapping[str, str]) -> bool:
    """Whether the series carries every wanted label with that value."""
    return wanted.items() <= dict(series).items()


def _sum(series: Series, wanted: Mapping[str, str]) -> float:
    if not wanted:
        return math.fsum(series.values())
    return math.fsum(value for labels, value in series.items() if matches(labels, wanted))


def _by(series: Series, names: Sequence[str], wanted: Mapping[str, str]) -> dict[tuple[str, ...], float]:
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in series.items():
        own = dict(labels)
        if wanted.items() <= own.items():
            key = tuple(own.get(name, "") for name in names)
            sums[key] = sums.get(key, 0.0) + value
    return sums


@dataclass(frozen=True)
class Exposition:
    """One scrape. ``series`` by sample name; ``kinds`` (counter, gauge, histogram, …) by sample name."""

    series: Mapping[str, Series] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.series

    def of(self, name: str) -> Series:
        """The series of a sample name; empty if there are none."""
        return self.series.get(name, _NOTHING)

    def total(self, name: str, **labels: str) -> float:
        """The sum over the series that carry these labels; 0 if there are none."""
        return _sum(self.of(name), labels)

    def value(self, name: str, **labels: str) -> float | None:
        """Like ``total``, but None where there is no such series: for gauges, where 0 is an answer."""
        found = [value for own, value in self.of(name).items() if matches(own, labels)]
        return math.fsum(found) if found else None

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Sums per value of one label."""
        return {key[0]: value for key, value in _by(self.of(name), (label,), labels).items()}


def parse(text: str, only: Iterable[str] | None = None) -> Exposition:
    """Read an exposition (text format 0.0.4); ``only`` names metrics, as on their ``# TYPE`` line, and spares the rest.

    Values that are not finite are left out: neither a rate nor a chart can say anything with them. Raises
    ``Refused`` if the text is no exposition.
    """
    if only is not None:
        text = _lines_of(text, _sample_names(only))
    try:
        return from_families(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError) as error:
        raise Refused(
            f"This is no Prometheus exposition ({type(error).__name__}).", remedy="See what the service serves there."
        ) from None


def from_families(families: Iterable[Metric], only: Iterable[str] | None = None) -> Exposition:
    """The same from a registry's own families, without the way through text. ``only`` as for :func:`parse`."""
    wanted = None if only is None else _sample_names(only)
    series: dict[str, dict[Labels, float]] = {}
    kinds: dict[str, str] = {}
    for family in families:
        for sample in family.samples:
            if sample.name.endswith(CREATED) or not math.isfinite(sample.value):
                continue
            if wanted is None or sample.name in wanted:
                series.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
                kinds[sample.name] = family.type
    return Exposition(series, kinds)


def _sample_names(metrics: Iterable[str]) -> frozenset[str]:
    return frozenset(name + part for name in metrics for part in ("", BUCKET, SUM, COUNT))


def _lines_of(text: str, wanted: frozenset[str]) -> str:
    """The lines of these metrics, with their types: reading a line costs far more than skipping it."""
    kept = []
    for line in text.split("\n"):
        if line.startswith("#"):
            words = line.split(None, 3)
            if len(words) > 2 and words[2] in wanted:
                kept.append(line)
        elif line.split("{", 1)[0].split(" ", 1)[0] in wanted:
            kept.append(line)
    return "\n".join(kept) + "\n"


@dataclass(frozen=True)
class Difference:
    """What happened between two scrapes: increases of what grows, and the later values of the gauges."""

    seconds: float
    increases: Mapping[str, Series]
    gauges: Mapping[str, Series]

    def without(self, label: str, values: Collection[str]) -> Difference:
        """The same without the growth of series whose ``label`` has one of these values."""
        kept = {
            name: {own: value for own, value in series.items() if dict(own).get(label) not in values}
            for name, series in self.increases.items()
        }
        return Difference(self.seconds, kept, self.gauges)

    def total(self, name: str, **labels: str) -> float:
        """How much the series with these labels grew, together."""
        return _sum(self.increases.get(name, _NOTHING), labels)

    def rate(self, name: str, **labels: str) -> float:
        """Growth per second."""
        return self.total(name, **labels) / self.seconds

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Growth per value of one label."""
        return {key[0]: value for key, value in self.by_all(name, (label,), **labels).items()}

    def by_all(self, name: str, names: Sequence[str], **labels: str) -> dict[tuple[str, ...], float]:
        """Growth per combination of values of several labels, in the order of ``names``."""
        return _by(self.increases.get(name, _NOTHING), names, labels)

    def gauge(self, name: str, **labels: str) -> float | None:
        """A gauge at the later scrape, summed over its series; None if there is none."""
        found = [value for own, value in self.gauges.get(name, _NOTHING).items() if matches(own, labels)]
        return math.fsum(found) if found else None

    def buckets(self, name: str, **labels: str) -> Buckets:
        """The buckets of a histogram (its name without ``_bucket``), added up over the series with these labels."""
        return _buckets(self.increases.get(name + BUCKET, _NOTHING), labels)

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """The q-quantile of a histogram's observations in this time, in its unit; None without any."""
        return quantile(q, self.buckets(name, **labels))

    def error_share(self, name: str, label: str = "status", **labels: str) -> float | None:
        """The share (0–1) of requests answered with a 5xx; None when there was no request."""
        return error_share(self.by(name, label, **labels))


def difference(before: Exposition, after: Exposition, seconds: float) -> Difference:
    """What happened in the ``seconds`` between two scrapes of one service.

    A counter that went back has started again and counts from zero; so does a series that was not there.
    The parts of one histogram start again together. Raises ``Refused`` unless time has passed.
    """
    if not seconds > 0 or not math.isfinite(seconds):
        raise Refused(f"No time has passed between these scrapes ({seconds} s).")
    restarted = _restarted(before, after)
    increases: dict[str, Series] = {}
    gauges: dict[str, Series] = {}
    for name, series in after.series.items():
        kind = after.kinds.get(name, "unknown")
        if kind not in GROWING:
            gauges[name] = series
            continue
        earlier = before.of(name)
        increases[name] = {
            labels: value if _group(name, kind, labels) in restarted else value - earlier.get(labels, 0.0)
            for labels, value in series.items()
        }
    return Difference(seconds, increases, gauges)


def _group(name: str, kind: str, labels: Labels) -> tuple[str, Labels]:
    """What starts again as one: a counter's series, or all parts of one histogram or summary."""
    if kind == "counter":
        return name, labels
    for part in (BUCKET, SUM, COUNT):
        name = name.removesuffix(part)
    return name, tuple(pair for pair in labels if pair[0] not in ("le", "quantile"))


def _restarted(before: Exposition, after: Exposition) -> set[tuple[str, Labels]]:
    found = set()
    for name, series in after.series.items():
        kind = after.kinds.get(name, "unknown")
        earlier = before.of(name)
        if kind in GROWING and earlier:
            found |= {_group(name, kind, own) for own, value in series.items() if value < earlier.get(own, 0.0)}
    return found


def _buckets(series: Series, wanted: Mapping[str, str]) -> Buckets:
    sums: dict[float, float] = {}
    for labels, value in series.items():
        own = dict(labels)
        if "le" in own and wanted.items() <= own.items():
            bound = float(own["le"])
            sums[bound] = sums.get(bound, 0.0) + value
    return tuple(sorted(sums.items()))


def quantile(q: float, buckets: Buckets) -> float | None:
    """The q-quantile (0–1) from a histogram's cumulative buckets, as Prometheus' ``histogram_quantile``.

    Linear within a bucket; the first one begins at 0; beyond the last finite bound its bound is the answer.
    None without observations or without a bucket for infinity.
    """
    if not 0 <= q <= 1:
        raise Refused(f"{q} is no quantile; give 0 to 1.")
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]):
        return None
    bounds = [bound for bound, _ in buckets]
    counts: list[float] = []
    for _, count in buckets:  # files of several processes are read one after the other: counts may lag a little
        counts.append(max(count, counts[-1] if counts else 0.0))
    total = counts[-1]
    if total <= 0:
        return None
    rank = q * total
    index = next(i for i, count in enumerate(counts) if count >= rank)
    if index == len(bounds) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    within = counts[index] - below
    if within <= 0:
        return start
    return start + (bounds[index] - start) * (rank - below) / within


def error_share(requests_by_status: Mapping[str, float]) -> float | None:
    """The share (0–1) of 5xx among requests counted by status; None when there was none."""
    total = math.fsum(requests_by_status.values())
    if total <= 0:
        return None
    return math.fsum(count for status, count in requests_by_status.items() if _is_error(status)) / total


def _is_error(status: str) -> bool:
    return len(status) == 3 and status[0] == "5"
