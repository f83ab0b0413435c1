"""How services, releases and ports are called inside Envoy: names that statistics can be read back from. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

#: The zone that the edge itself is in: with it Envoy counts each answer under the zone of the instance that gave it.
EDGE_ZONE = "edge"
_MARK = "~"


def token(release: str) -> str:
    """The release's name without a dot or a percent sign, which mean something in the names of statistics."""
    return quote(release, safe="-_+").replace("~", "%7E").replace(".", "%2E").replace("%", _MARK)


def release_of(name: str) -> str:
    """The release whose ``token`` this is."""
    return unquote(name.replace(_MARK, "%"))


def cluster_name(service: str, release: str) -> str:
    return f"{service}/{token(release)}"


def split_cluster(name: str) -> tuple[str, str] | None:
    """The service and the release of a cluster; None if it is none of ours."""
    service, slash, release = name.partition("/")
    return (service, release_of(release)) if slash else None


def listener_name(port: int) -> str:
    """Of a listener, and of its table of routes."""
    return f"port-{port}"


def stat_prefix(port: int) -> str:
    return f"port_{port}"


def routes_file(port: int) -> str:
    return f"routes-{port}.json"


def endpoints_file(cluster: str) -> str:
    return f"endpoints-{cluster.replace('/', '--')}.json"


def clusters_pattern(service: str) -> str:
    """A regular expression (RE2) for the names of a service's clusters' statistics."""
    return rf"^cluster\.{re.escape(service)}/"
