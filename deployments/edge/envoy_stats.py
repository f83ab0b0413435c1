"""What Envoy has counted and what it does, read from its admin interface's answers. Pure.

Envoy counts an answer under the cluster that the route named, and again under the zone of the instance that gave it.
The second is the truth here: while a release has no healthy instance the stable one answers in its cluster.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import envoy_names as names
from .base import EndpointSeen, ReleaseCounters, RouteSeen
from .envoy_routes import FULL, METADATA

#: Bounds of the histogram of response times in ms, beside the service's own.
BOUNDS = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0, 60_000.0)
_STAT = re.compile(
    r"cluster\.(?P<cluster>[^.]+)\.(?:(?P<canary>canary)\.|zone\.[^.]+\.(?P<zone>[^.]+)\.)?upstream_rq_(?P<what>\w+)"
)


@dataclass(slots=True)
class _Answers:
    """Answers under one heading: code -> how many, and all."""

    codes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    completed: int = 0

    @property
    def failed(self) -> int:
        return sum(count for code, count in self.codes.items() if code >= 500)


@dataclass(slots=True)
class _Cluster:
    """One cluster's statistics: all, those of refusals, and by the release that answered."""

    whole: _Answers = field(default_factory=_Answers)
    refusals: _Answers = field(default_factory=_Answers)
    answered_by: dict[str, _Answers] = field(default_factory=lambda: defaultdict(_Answers))


def counters(
    stats: Mapping[str, Any], hosts: Mapping[str, Any], service: str, slow_ms: int
) -> dict[str, ReleaseCounters]:
    """Release -> its counters. ``stats``: /stats with detailed histograms; ``hosts``: /clusters; both as JSON."""
    clusters: dict[str, _Cluster] = defaultdict(_Cluster)
    times: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for item in stats.get("stats", ()):
        if "histograms" in item:
            _note_times(item["histograms"], service, times)
        else:
            _note_count(item, service, clusters)
    active = _active(hosts, service)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])  # requests, failed, refused, limited
    for owner, cluster in clusters.items():
        for release, part in _parts(owner, cluster).items():
            totals[release] = [before + now for before, now in zip(totals[release], part, strict=True)]
    return {
        release: _release(totals[release], times[release], active.get(release, 0), slow_ms)
        for release in {*totals, *times, *active}
    }


def _note_count(item: Mapping[str, Any], service: str, clusters: dict[str, _Cluster]) -> None:
    found = _STAT.fullmatch(item.get("name", ""))
    owner = names.split_cluster(found["cluster"]) if found else None
    if found is None or owner is None or owner[0] != service or not isinstance(item.get("value"), int):
        return
    cluster = clusters[owner[1]]
    answers = cluster.whole
    if found["canary"]:
        answers = cluster.refusals
    elif found["zone"]:
        answers = cluster.answered_by[names.release_of(found["zone"])]
    if found["what"] == "completed":
        answers.completed += item["value"]
    elif found["what"].isdigit():
        answers.codes[int(found["what"])] += item["value"]


def _parts(owner: str, cluster: _Cluster) -> dict[str, tuple[int, int, int, int]]:
    """Who answered in this cluster: requests, failures, refusals, limited."""
    parts = {}
    refused = _shared_out(cluster.refusals.codes[503], {r: a.codes[503] for r, a in cluster.answered_by.items()})
    for release, answers in cluster.answered_by.items():
        parts[release] = (answers.completed, answers.failed, refused[release], answers.codes[429])
    # Envoy's own answers, when there was no instance to ask: the release whose share it was has failed.
    nobody = cluster.whole.completed - sum(answers.completed for answers in cluster.answered_by.values())
    failed = cluster.whole.failed - sum(answers.failed for answers in cluster.answered_by.values())
    before = parts.get(owner, (0, 0, 0, 0))
    parts[owner] = (before[0] + max(0, nobody), before[1] + max(0, failed), before[2], before[3])
    return parts


def _shared_out(whole: int, by: Mapping[str, int]) -> dict[str, int]:
    """Refusals are counted by cluster, not by who refused: where two answered in one, each gets its part of the 503s.

    That is exact unless a release failed with 503 by itself and then the stable one refused in its place.
    """
    left, weight, shares = whole, sum(by.values()), {}
    for release, count in sorted(by.items(), key=lambda item: item[1]):
        shares[release] = min(count, round(left * count / weight)) if weight else 0
        left, weight = left - shares[release], weight - count
    return shares


def _active(hosts: Mapping[str, Any], service: str) -> dict[str, int]:
    active: dict[str, int] = defaultdict(int)
    for name, host in _hosts(hosts):
        if name[0] == service:
            stats = {stat.get("name"): int(stat.get("value", 0)) for stat in host.get("stats", ())}
            active[names.release_of(host.get("locality", {}).get("zone", ""))] += stats.get("rq_active", 0)
    return dict(active)


def _hosts(answer: Mapping[str, Any]) -> Iterable[tuple[tuple[str, str], Mapping[str, Any]]]:
    for cluster in answer.get("cluster_statuses", ()):
        name = names.split_cluster(cluster.get("name", ""))
        if name is not None:
            for host in cluster.get("host_statuses", ()):
                yield name, host


def _note_times(histograms: Mapping[str, Any], service: str, times: dict[str, list[tuple[float, int]]]) -> None:
    for item in histograms.get("details", ()):
        found = _STAT.fullmatch(item.get("name", ""))
        owner = names.split_cluster(found["cluster"]) if found else None
        if found is None or owner is None or owner[0] != service or not found["zone"] or found["what"] != "time":
            continue
        times[names.release_of(found["zone"])] += [
            (float(bucket["lower_bound"]), int(bucket["count"])) for bucket in item.get("totals", ())
        ]


def _release(totals: list[int], times: list[tuple[float, int]], active: int, slow_ms: int) -> ReleaseCounters:
    requests, failed, refused, limited = totals
    bounds = sorted({*BOUNDS, float(slow_ms)})
    return ReleaseCounters(
        requests=requests,
        errors=max(0, failed - refused),
        shed=refused,
        limited=limited,
        slow=sum(count for lower, count in times if lower >= slow_ms),
        active=active,
        buckets={bound: sum(count for lower, count in times if lower < bound) for bound in bounds},
    )


def routes_seen(
    tables: Iterable[Mapping[str, Any]], hosts: Mapping[str, Any], listening: set[str]
) -> dict[str, RouteSeen]:
    """Service -> what is in force, from the dump of the tables of routes and /clusters.

    Only tables of ports in ``listening`` count: what nobody can connect to is not done.
    """
    seen = {}
    endpoints = _endpoints_seen(hosts)
    for item in tables:
        table = item.get("route_config", {})
        if table.get("name") not in listening:
            continue
        for host in table.get("virtual_hosts", ()):
            for entry in host.get("routes", ()):
                whose = entry.get("metadata", {}).get("filter_metadata", {}).get(METADATA)
                if whose and entry.get("name") == f"main/{whose['service']}":
                    service = whose["service"]
                    seen[service] = RouteSeen(
                        service, int(whose["generation"]), _permille(entry), endpoints.get(service, {})
                    )
    return seen


def _permille(entry: Mapping[str, Any]) -> dict[str, int]:
    action = entry.get("route", {})
    if "cluster" in action:
        parts = [(action["cluster"], FULL)]
    else:
        parts = [
            (part["name"], int(part["weight"])) for part in action.get("weighted_clusters", {}).get("clusters", ())
        ]
    return {name[1]: weight for cluster, weight in parts if (name := names.split_cluster(cluster)) is not None}


def _endpoints_seen(hosts: Mapping[str, Any]) -> dict[str, dict[str, tuple[EndpointSeen, ...]]]:
    seen: dict[str, dict[str, tuple[EndpointSeen, ...]]] = defaultdict(dict)
    for (service, release), host in _hosts(hosts):
        seen[service].setdefault(release, ())
        if int(host.get("priority", 0)) > 0:
            continue  # of the stable release, behind this one
        address = host.get("address", {}).get("socket_address", {})
        status = host.get("health_status", {})
        sick = [flag for flag, is_set in status.items() if is_set is True]
        healthy = not sick and status.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")
        endpoint = EndpointSeen(
            host.get("hostname", ""), address.get("address", ""), int(address.get("port_value", 0)), healthy
        )
        seen[service][release] += (endpoint,)
    return seen
