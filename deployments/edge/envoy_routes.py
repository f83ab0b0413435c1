"""Which release answers a request: the table of routes of one port. Pure. It alone changes with each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import envoy_names as names
from .base import ReleaseShare, Route
from .envoy_config import COUNTED_APART, HTTP, TYPE, Json
from .envoy_sticky import FILTER as LUA
from .envoy_sticky import LOT_HEADER

#: Asked for by testers: ``always`` or ``never``.
TESTER_HEADER = "x-canary"
#: Under this name a route says whose it is, and from which desired state.
METADATA = "zantara"
FULL = 1000


def table(port: int, routes: Sequence[Route]) -> Json:
    """The routes of all services of one port. A named host goes before all hosts, a long prefix before a short one."""
    hosts = sorted({host.lower() for route in routes for host in route.hosts})
    return {
        "@type": TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": names.listener_name(port),
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            *({"name": host, "domains": [host], "routes": _of_host(host, routes)} for host in hosts),
            {"name": "all", "domains": ["*"], "routes": _of_host(None, routes)},
        ],
        "request_headers_to_add": [
            _set("x-forwarded-for", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
            _set("x-request-start", "t=%START_TIME(%s.%3f)%"),
        ],
        "request_headers_to_remove": [LOT_HEADER, "x-envoy-external-address", "forwarded", "x-real-ip"],
        "response_headers_to_remove": [COUNTED_APART],
    }


def version(routes: Sequence[Route]) -> str:
    """For people who read Envoy's own pages: each service with its generation."""
    return ",".join(f"{route.service}={route.generation}" for route in sorted(routes, key=lambda r: r.service))


def _set(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _of_host(host: str | None, routes: Sequence[Route]) -> list[Json]:
    mine = [route for route in routes if not route.hosts or (host in {name.lower() for name in route.hosts})]
    mine.sort(key=lambda route: (not route.hosts, -len(route.prefix), route.service))
    return [entry for route in mine for entry in _of_service(route)]


def canary_of(route: Route) -> ReleaseShare | None:
    """The release that testers ask for: not the stable one, and with instances."""
    return next((share for share in route.releases if share.release != route.stable and share.endpoints), None)


def _of_service(route: Route) -> list[Json]:
    entries = []
    canary = canary_of(route)
    if canary is not None and route.stable in {share.release for share in route.releases}:
        for wish, release in (("always", canary.release), ("never", route.stable)):
            override = {"name": TESTER_HEADER, "string_match": {"exact": wish, "ignore_case": True}}
            entries.append(_entry(route, f"{wish}/{route.service}", [override], {"cluster": _name(route, release)}))
    # The stable one last: then a share that rises takes from it, and from nobody else.
    shares = sorted(route.releases, key=lambda share: (share.release == route.stable, share.release))
    shares = [share for share in shares if share.permille > 0]
    main = f"main/{route.service}"
    if not shares:
        entries.append(_nobody(route, main))
    elif len(shares) == 1:
        entries.append(_entry(route, main, [], {"cluster": _name(route, shares[0].release)}))
    else:
        weighted: Json = {
            "clusters": [{"name": _name(route, share.release), "weight": share.permille} for share in shares]
        }
        if route.sticky:
            weighted["header_name"] = LOT_HEADER
        salt = f"{route.service}/{shares[0].release}" if route.sticky else None
        entries.append(_entry(route, main, [], {"weighted_clusters": weighted}, salt=salt))
    return entries


def _name(route: Route, release: str) -> str:
    return names.cluster_name(route.service, release)


def _match(route: Route, headers: list[Json]) -> Json:
    prefix = route.prefix
    path = {"prefix": prefix} if prefix.endswith("/") else {"path_separated_prefix": prefix}
    return {**path, **({"headers": headers} if headers else {})}


def _whose(route: Route) -> Json:
    return {
        METADATA: {
            "service": route.service,
            "generation": str(route.generation),
            "slow_ms": str(route.slow_request_ms),
        }
    }


def slow_ms_of(content: Any, service: str) -> int | None:
    """The service's ``slow_request_ms`` as a file of routes holds it; None if it is not in there."""
    for table in (content or {}).get("resources", ()):
        for host in table["virtual_hosts"]:
            for entry in host["routes"]:
                whose = entry["metadata"]["filter_metadata"][METADATA]
                if whose["service"] == service:
                    return int(whose["slow_ms"])
    return None


def _entry(route: Route, name: str, headers: list[Json], action: Json, *, salt: str | None = None) -> Json:
    metadata = _whose(route)
    entry: Json = {"name": name, "match": _match(route, headers)}
    if salt is None:
        entry["typed_per_filter_config"] = {LUA: {"@type": HTTP + "lua.v3.LuaPerRoute", "disabled": True}}
    else:
        metadata[LUA] = {"salt": salt}
    return {
        **entry,
        "metadata": {"filter_metadata": metadata},
        "route": {**action, "timeout": "0s", "retry_policy": _retries()},
    }


def _nobody(route: Route, name: str) -> Json:
    """No release has any traffic: a sentence rather than Envoy's silence."""
    body = '{"error": "NO_RELEASE", "message": "No release of this service is in use"}\n'
    return {
        "name": name,
        "match": _match(route, []),
        "metadata": {"filter_metadata": _whose(route)},
        "typed_per_filter_config": {LUA: {"@type": HTTP + "lua.v3.LuaPerRoute", "disabled": True}},
        "direct_response": {"status": 503, "body": {"inline_string": body}},
    }


def _retries() -> Json:
    """Only what no instance has begun to handle: first at another instance of the release, then at the stable one."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 3,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": "5",
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": TYPE + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 2,
            },
        },
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
    }
