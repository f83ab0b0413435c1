"""``/metrics``: all processes' counts and the gauges of the moment, as Prometheus or OpenMetrics text."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from controlplane.identity.caller import bearer_token, client_of
from controlplane.kernel.errors import ConfigurationError, Unavailable
from controlplane.kernel.problems import problem_response

from . import live_slots
from .compaction import Collected, GaugeValue, collect, sum_up
from .registry import SPECS, Reading, collectors, counter, folder

log = structlog.get_logger(__name__)

Labels = tuple[tuple[str, str], ...]


# --- the text ------------------------------------------------------------------------------------


def exposition(accept: str = "") -> tuple[bytes, str]:
    """The text and its content type, as the ``Accept`` header wishes. Unavailable if the files are locked too long."""
    families = list(_gauges_of_the_moment())  # first: a collector that fails is counted, and seen in this very text
    families += list(counted())
    encoder, content_type = choose_encoder(accept)
    return encoder(_Snapshot(sorted(families, key=lambda family: family.name))), content_type


def counted() -> Iterator[Metric]:
    """What this service's processes have counted, without the gauges of the moment: no collector is asked."""
    where = folder()
    return _counted_together(collect(where)) if where else _counted_here()


class _Snapshot:
    """Families that were collected already, as an encoder wants them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _counted_here() -> Iterator[Metric]:
    """This process alone, with what the library itself knows of it; without the times at which series were made."""
    for family in REGISTRY.collect():
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        if samples:
            family.samples = samples
            yield family


def _counted_together(collected: Collected) -> Iterator[Metric]:
    for kind, keys in collected.sums.items():
        families: dict[str, _Sums] = {}
        for key, parts in keys.items():
            family, sample, labels, text = _parse(key)
            families.setdefault(family, _Sums(family, kind, text)).add(sample, labels, parts)
        for sums in families.values():
            yield sums.metric()
    yield from _gauges_of_processes(collected.gauges)


@lru_cache(maxsize=20_000)
def _parse(key: str) -> tuple[str, str, Labels, str]:
    """Family, sample, labels and help in a key of prometheus_client's files."""
    family, sample, labels, text = json.loads(key)
    return family, sample, tuple(sorted(labels.items())), text


class _Sums:
    """One counter, summary or histogram while its processes' parts are put together.

    Keys that differ in nothing but their help (of an older release) are the same series.
    """

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name, self._kind, self._text = name, kind, text
        self._parts: dict[tuple[str, Labels], list[float]] = {}

    def add(self, sample: str, labels: Labels, parts: list[float]) -> None:
        self._parts.setdefault((sample, labels), []).extend(parts)

    def metric(self) -> Metric:
        metric = Metric(self.name, self._text, self._kind)
        buckets: dict[Labels, list[tuple[float, float]]] = {}
        for (sample, labels), parts in self._parts.items():
            bound = next((value for name, value in labels if name == "le"), None)
            if self._kind == "histogram" and bound is not None:
                without = tuple(label for label in labels if label[0] != "le")
                buckets.setdefault(without, []).append((float(bound), sum_up(parts)))
            elif self._kind != "histogram":
                metric.add_sample(sample, dict(labels), sum_up(parts))
        for labels, counts in buckets.items():
            self._histogram(metric, labels, counts)
        return metric

    def _histogram(self, metric: Metric, labels: Labels, counts: list[tuple[float, float]]) -> None:
        """The files hold each bucket on its own; the text wants them running."""
        running, plain = 0.0, dict(labels)
        for bound, count in sorted(counts):
            running += count
            metric.add_sample(f"{self.name}_bucket", {**plain, "le": _bound(bound)}, running)
        metric.add_sample(f"{self.name}_count", plain, running)
        metric.add_sample(f"{self.name}_sum", plain, sum_up(self._parts.get((f"{self.name}_sum", labels), [0.0])))


def _bound(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _gauges_of_processes(values: Iterable[GaugeValue]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    series: dict[tuple[str, str, Labels], list[GaugeValue]] = {}
    for value in values:
        family, sample, labels, text = _parse(value.key)
        families.setdefault(family, Metric(family, text, "gauge"))
        if value.mode.removeprefix("live") == "all":
            labels = (*labels, ("pid", value.owner.partition("-")[0]))
        series.setdefault((family, sample, labels), []).append(value)
    for (family, sample, labels), of_processes in series.items():
        families[family].add_sample(sample, dict(labels), _together(of_processes))
    yield from families.values()


def _together(values: list[GaugeValue]) -> float:
    match values[0].mode.removeprefix("live"):
        case "sum":
            return sum_up(one.value for one in values)
        case "min":
            return min(one.value for one in values)
        case "max":
            return max(one.value for one in values)
        case _:
            return max(values, key=lambda one: one.set_at).value


def _gauges_of_the_moment() -> Iterator[Metric]:
    """Ask every collector; one that fails is left out, logged and counted."""
    families: dict[str, Metric] = {}
    for name in collectors.names():
        try:
            readings = list(collectors.get(name)())
        except Exception as error:  # noqa: BLE001  (collectors are others' and ask servers; the rest must come)
            log.warning("collector_failed", collector=name, error=f"{type(error).__name__}: {error}")
            counter("zantara_scrape_errors_total").add((name,))
            continue
        for reading in readings:
            spec = SPECS[reading.name]
            family = families.setdefault(reading.name, Metric(spec.name, spec.help, "gauge"))
            family.add_sample(spec.name, dict(zip(spec.labels, reading.labels, strict=True)), reading.value)
    yield from families.values()


def _in_flight() -> Iterable[Reading]:
    return (Reading("zantara_requests_in_flight", live_slots.total()),)


def _pressure() -> Iterable[Reading]:
    from .pressure import current

    pressure = current()
    return (
        Reading("zantara_active_connections", pressure.connections),
        Reading("zantara_memory_used_ratio", pressure.memory_percent / 100),
    )


collectors.add("in_flight", _in_flight)
collectors.add("pressure", _pressure)


# --- who may read it -----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def metrics_token() -> bytes | None:
    """The token that opens ``/metrics`` from anywhere; None where none is set. ConfigurationError for a lost file."""
    value: Any = getattr(settings, "ZANTARA_METRICS_TOKEN", None)
    file: Any = getattr(settings, "ZANTARA_METRICS_TOKEN_FILE", None)
    if not value and file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"ZANTARA_METRICS_TOKEN_FILE names {file}, which cannot be read ({error.strerror}).",
                remedy="Make it readable for this process.",
            ) from None
    return str(value).encode() if value else None


@lru_cache(maxsize=1)
def metrics_networks() -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Where ``/metrics`` may be read without a token; none named means this machine only."""
    try:
        return tuple(ipaddress.ip_network(text) for text in getattr(settings, "ZANTARA_METRICS_NETWORKS", ()))
    except ValueError as error:
        raise ConfigurationError(
            f"ZANTARA_METRICS_NETWORKS: {error}.", remedy="Write networks such as 10.0.0.0/8, with commas between."
        ) from None


def carries_metrics_token(request: HttpRequest) -> bool:
    expected = metrics_token()
    if expected is None:
        return False
    given = bearer_token(request.META.get("HTTP_AUTHORIZATION", ""))
    return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), expected)


def may_read(request: HttpRequest) -> bool:
    """Whether this caller may read the metrics: by token, or by the address behind trusted proxies only."""
    if carries_metrics_token(request):
        return True
    client, networks = client_of(request), metrics_networks()
    if not networks:
        return client.is_loopback
    return client.ip is not None and any(client.ip in network for network in networks)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    if not may_read(request):
        return problem_response(
            403, "Forbidden", "The metrics are for this machine, allowed networks, and callers with the metrics token."
        )
    try:
        text, content_type = exposition(request.headers.get("Accept", ""))
    except Unavailable as error:
        return problem_response(503, "Service unavailable", str(error), headers={"Retry-After": "1"})
    return HttpResponse(text, content_type=content_type, headers={"Cache-Control": "no-store"})


def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith("ZANTARA_METRICS_"):
        metrics_token.cache_clear()
        metrics_networks.cache_clear()


setting_changed.connect(_forget, dispatch_uid="controlplane.monitoring.exposition")
