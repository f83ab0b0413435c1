"""What Envoy is told: its bootstrap, listeners and clusters. Pure: from the desired state to plain data.

Only features of Envoy 1.30 and later. What changes with each stage is in ``envoy_routes`` alone: listeners and clusters
stay as they are through a rollout, because Envoy closes connections when a listener changes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import envoy_names as names
from .base import Endpoint, ReleaseShare, Route
from .envoy_sticky import FILTER as LUA
from .envoy_sticky import SCRIPT

Json = dict[str, Any]

#: Beginnings of the names of Envoy's kinds of data.
TYPE = "type.googleapis.com/"
HTTP = TYPE + "envoy.extensions.filters.http."
#: The header by which an instance says that it refused to work, and did not fail. Its value is ``true``.
SHED_HEADER = "x-zantara-shed"
#: Envoy counts answers that carry it apart: that is how refusals are told from errors.
COUNTED_APART = "x-envoy-upstream-canary"
#: One healthy instance is enough for a release to keep its whole share. Envoy counts in percent of the healthy.
_ONE_IS_ENOUGH = 100_000
_NO_LIMIT = 1_000_000
#: Of callers, on all ports together.
MOST_CONNECTIONS = 10_000
#: Envoy gives up its idle connections to instances before common servers do (Node after 5 s), who would otherwise
#: close one just as a request is sent on it.
_UPSTREAM_IDLE = "4s"


@dataclass(frozen=True, slots=True)
class Settings:
    """``host``: the address that listens. ``body_bytes``: a request's body is taken in whole, up to so many bytes,
    before an instance sees any of it; 0: passed on as it comes."""

    folder: Path
    admin_socket: Path
    host: str = "127.0.0.1"
    body_bytes: int = 10 * 2**20


def version_of(value: Any) -> str:
    """The same for the same content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def discovery(resources: Sequence[Json], *, version: str | None = None) -> Json:
    """What a file for Envoy holds."""
    return {"version_info": version or version_of(resources), "resources": list(resources)}


def bootstrap(settings: Settings) -> Json:
    """The only file that Envoy reads once: where its other files and its admin socket are."""
    connections = {
        "@type": TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": MOST_CONNECTIONS,
    }
    monitor = {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}
    return {
        "node": {"id": "zantara-edge", "cluster": "zantara-edge", "locality": {"zone": names.EDGE_ZONE}},
        "admin": {"address": {"pipe": {"path": str(settings.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "cds_config": _file(settings.folder / "clusters.json"),
            "lds_config": _file(settings.folder / "listeners.json"),
        },
        "overload_manager": {"resource_monitors": [monitor]},
        "stats_flush_interval": "1s",  # histograms can be read so long after the request
    }


def _file(path: Path) -> Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


# --- listeners -----------------------------------------------------------------------------------


def listeners(ports: Iterable[int], settings: Settings) -> list[Json]:
    return [_listener(port, settings) for port in sorted(set(ports))]


def _listener(port: int, settings: Settings) -> Json:
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(port, settings)}
    return {
        "@type": TYPE + "envoy.config.listener.v3.Listener",
        "name": names.listener_name(port),
        "address": {"socket_address": {"address": settings.host, "port_value": port}},
        # With SO_REUSEPORT two servers would share a port in silence.
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [manager]}],
    }


def _manager(port: int, settings: Settings) -> Json:
    return {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": names.stat_prefix(port),
        "rds": {
            "route_config_name": names.listener_name(port),
            "config_source": _file(settings.folder / names.routes_file(port)),
        },
        "http_filters": _filters(settings),
        # Whoever connects is the caller: what he says of himself or of Envoy's doings is not believed.
        "use_remote_address": True,
        "skip_xff_append": True,
        "internal_address_config": {
            "unix_sockets": False,
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}],
        },
        "preserve_external_request_id": True,
        "request_id_extension": {
            "typed_config": {
                "@type": TYPE + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        # X_Forwarded_For and X-Forwarded-For are one variable to a WSGI application.
        "common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER", "idle_timeout": "300s"},
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": "300s",
        "upgrade_configs": [{"upgrade_type": "websocket", "filters": [_lua(), _router()]}],
        "local_reply_config": {"mappers": [_own_error()]},
    }


def _filters(settings: Settings) -> list[Json]:
    buffer = {"@type": HTTP + "buffer.v3.Buffer", "max_request_bytes": settings.body_bytes}
    buffers = [{"name": "envoy.filters.http.buffer", "typed_config": buffer}] if settings.body_bytes else []
    return [_lua(), *buffers, _router()]


def _lua() -> Json:
    config = {"@type": HTTP + "lua.v3.Lua", "default_source_code": {"inline_string": SCRIPT}}
    return {"name": LUA, "typed_config": config}


def _router() -> Json:
    config = {"@type": HTTP + "router.v3.Router", "suppress_envoy_headers": True}
    return {"name": "envoy.filters.http.router", "typed_config": config}


def _own_error() -> Json:
    """An answer that no instance gave says that, and nothing of what is behind the edge."""
    above = {"default_value": 500, "runtime_key": "zantara_own_error"}
    return {
        "filter": {
            "and_filter": {
                "filters": [
                    {"status_code_filter": {"comparison": {"op": "GE", "value": above}}},
                    {"response_flag_filter": {}},  # Envoy notes a reason, as it does not for answers of the routes
                ]
            }
        },
        "body_format_override": {
            "json_format": {"error": "NO_ANSWER", "message": "The service did not answer, please try again later"}
        },
    }


# --- clusters ------------------------------------------------------------------------------------


def clusters(routes: Iterable[Route], settings: Settings) -> list[Json]:
    """One for each release of each service, in the order of their names."""
    found = {
        names.cluster_name(route.service, share.release): _cluster(route, share.release, settings)
        for route in routes
        for share in route.releases
    }
    return [found[name] for name in sorted(found)]


def _cluster(route: Route, release: str, settings: Settings) -> Json:
    name = names.cluster_name(route.service, release)
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {
        "@type": TYPE + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": name, "eds_config": _file(settings.folder / names.endpoints_file(name))},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # None healthy: refuse, and do not try the sick ones all the same. And what is found of an instance's health
        # holds at once: by default Envoy's threads hear of it up to a second after its admin interface.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "ignore_health_on_host_removal": True,
        "health_checks": [_health_check(route.health_path)],
        "outlier_detection": _outlier_detection(),
        # How much an instance can bear is its own to say; Envoy's default would refuse above 1024 requests.
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _NO_LIMIT)]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
                "http_filters": [_count_refusals_apart(), _upstream_codec()],
            }
        },
    }


def _health_check(path: str) -> Json:
    return {
        "timeout": "3s",
        "interval": "1s",
        "no_traffic_interval": "1s",  # by default 60 s: a new release would be looked at once a minute
        "unhealthy_threshold": 3,
        "healthy_threshold": 2,  # the very first answer is enough, as Envoy has it
        "http_health_check": {
            "path": path,
            "expected_statuses": [{"start": 200, "end": 300}],
            # Any other answer counts one towards the threshold; without this, one alone would be enough.
            "retriable_statuses": [{"start": 100, "end": 200}, {"start": 300, "end": 600}],
        },
    }


def _outlier_detection() -> Json:
    """Only what happens before an answer (refused, reset, timed out) takes an instance out; what it answers, never."""
    never = (
        "consecutive_5xx", "consecutive_gateway_failure", "success_rate", "failure_percentage",
        "local_origin_success_rate", "failure_percentage_local_origin",
    )  # fmt: skip
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        **{f"enforcing_{what}": 0 for what in never},
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "10s",
        "max_ejection_percent": 100,
    }


def _count_refusals_apart() -> Json:
    header = {"key": COUNTED_APART, "value": f"%RESP({SHED_HEADER})%"}
    mutation = {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    config = {
        "@type": HTTP + "header_mutation.v3.HeaderMutation",
        "mutations": {"response_mutations": [mutation]},
    }
    return {"name": "envoy.filters.http.header_mutation", "typed_config": config}


def _upstream_codec() -> Json:
    config = {"@type": HTTP + "upstream_codec.v3.UpstreamCodec"}
    return {"name": "envoy.filters.http.upstream_codec", "typed_config": config}


# --- endpoints -----------------------------------------------------------------------------------


def endpoints(route: Route, share: ReleaseShare) -> Json:
    """A release's instances, and behind them those of the stable release, who answer while none of its own can.

    Each is in the zone that is named like its release: so Envoy counts who really answered.
    """
    own = [(0, share)]
    behind = [(1, other) for other in route.releases if other.release == route.stable != share.release]
    return {
        "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": names.cluster_name(route.service, share.release),
        "endpoints": [
            {
                "priority": priority,
                "locality": {"zone": names.token(one.release)},
                "lb_endpoints": [_endpoint(endpoint) for endpoint in sorted(one.endpoints, key=lambda e: e.name)],
            }
            for priority, one in own + behind
        ],
        "policy": {"overprovisioning_factor": _ONE_IS_ENOUGH},
    }


def _endpoint(endpoint: Endpoint) -> Json:
    address = address_of(endpoint.host)
    return {
        "endpoint": {
            "hostname": endpoint.name,
            "address": {"socket_address": {"address": address, "port_value": endpoint.port}},
            "health_check_config": {"hostname": endpoint.host},
        },
        "health_status": "DRAINING" if endpoint.draining else "HEALTHY",
    }


def address_of(host: str) -> str:
    """Envoy's files hold addresses, no names. ValueError for a name other than ``localhost``."""
    return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")))
