"""What the engine asks of the edge: do this, what are you doing, what have you counted.

The desired state of *all* services is given as a whole; it is absolute, so writing it twice is writing it once.
Shares belong to releases, never to instances: an instance that dies changes no release's share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An instance that may get requests. A draining one finishes what it has and gets nothing new."""

    name: str
    host: str
    port: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseShare:
    """A release's part in a service's traffic. The permille of a service's releases add up to 1000, or to 0."""

    release: str
    permille: int
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One service at the edge. ``sticky``: a caller stays with a release, and a higher share only adds callers.

    ``slow_request_ms`` is a boundary of the histogram of response times. ``stable`` serves what the others cannot:
    while a release has no healthy instance its share is answered by it.
    """

    service: str
    port: int
    prefix: str = "/"
    hosts: tuple[str, ...] = ()
    health_path: str = "/readyz"
    sticky: bool = True
    slow_request_ms: int = 1000
    stable: str = ""
    releases: tuple[ReleaseShare, ...] = ()
    generation: int = 0


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    name: str
    host: str
    port: int
    healthy: bool


@dataclass(frozen=True, slots=True)
class RouteSeen:
    """What the edge really does for a service: share of each release, endpoints with their health."""

    service: str
    generation: int
    permille: Mapping[str, int] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[EndpointSeen, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReleaseCounters:
    """Requests of one release since the edge started, as its instances answered them (cumulative).

    ``errors``: answers 5xx and connections that failed, without ``shed`` (our own 503 SYSTEM_OVERLOADED);
    ``limited``: our own 429. ``slow``: those above the route's ``slow_request_ms``. ``active``: in flight now.
    ``buckets``: upper bound in ms -> requests at most that slow, cumulative.
    """

    requests: int = 0
    errors: int = 0
    shed: int = 0
    limited: int = 0
    slow: int = 0
    active: int = 0
    buckets: Mapping[float, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CountersSeen:
    """``epoch`` changes when the edge starts anew and its counters begin at 0."""

    epoch: str
    releases: Mapping[str, ReleaseCounters] = field(default_factory=dict)


class Edge(Protocol):
    """One kind of proxy."""

    def check(self) -> None:
        """Raise EdgeRefused, with what to do, where it could not be told (a directory that is not writable)."""
        ...

    def apply(self, routes: Sequence[Route]) -> None:
        """Write the desired state of all services. EdgeRefused. Whether it took hold is read back, not assumed."""
        ...

    def read_back(self) -> Mapping[str, RouteSeen]:
        """Service -> what is really done; EdgeUnavailable where the proxy does not answer."""
        ...

    def counters(self, service: str) -> CountersSeen:
        """What it counted for the service's releases; EdgeUnavailable."""
        ...
