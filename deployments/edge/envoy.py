"""Envoy as the edge: desired state as files that it watches, read back over its admin socket.

The order of writing keeps every request answered: instances, then clusters, then the routes that name them, and
clusters that no route names any more last. Each call may be repeated, and by another process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from controlplane.kernel.errors import LeaseLost
from controlplane.kernel.redis_urls import LONGEST_SOCKET_PATH
from deployments.errors import EdgeRefused, EdgeUnavailable

from . import envoy_config as config
from . import envoy_names as names
from . import envoy_routes, envoy_stats
from .base import CountersSeen, Route, RouteSeen
from .envoy_admin import Admin
from .envoy_config import Settings
from .envoy_files import Folder

#: How long ``apply`` looks on while Envoy takes up a file (milliseconds, as a rule). What takes longer (a new cluster
#: whose instances do not answer its first question yet) is finished by a later call.
LOOK_SECONDS = 0.6
#: So long a higher generation keeps lower ones out. Longer than any worker is away and comes back; not for ever,
#: because a restore of the control plane's own database sets its generations back.
FENCE_SECONDS = 600.0

T = TypeVar("T")
CLUSTERS, LISTENERS, BOOTSTRAP = "clusters.json", "listeners.json", "bootstrap.json"


class EnvoyEdge:
    """One Envoy, wherever it runs, that sees the directory under the same path."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.admin = Admin(settings.admin_socket)
        self._folder = Folder(settings.folder)

    # --- telling -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write what an Envoy needs to start: its bootstrap, and empty files where there are none. EdgeRefused."""
        with self._folder.locked():
            self._prepare()

    def _prepare(self) -> None:
        if len(os.fsencode(self.settings.admin_socket)) > LONGEST_SOCKET_PATH:
            raise EdgeRefused(
                f"The path of the edge's admin socket is longer than {LONGEST_SOCKET_PATH} bytes.",
                remedy="Set ZANTARA_EDGE_ADMIN_SOCKET to a shorter one.",
            )
        self._folder.write_if_other(BOOTSTRAP, config.bootstrap(self.settings))
        for name in (CLUSTERS, LISTENERS):
            if self._folder.read(name) is None:
                self._folder.write(name, config.discovery([]))

    def check(self) -> None:
        """Raise EdgeRefused where the directory cannot be written, EdgeUnavailable where no Envoy answers."""
        with self._folder.locked():
            self._prepare()
            self._folder.write(".probe", {})
        if not self.admin.is_ready():
            raise EdgeUnavailable(
                f"No Envoy is ready on {self.settings.admin_socket}.",
                remedy="Start it (`make run` does), or set ZANTARA_EDGE_ADMIN_SOCKET to its admin socket.",
            )

    def apply(self, routes: Sequence[Route]) -> None:
        """Write the desired state of all services. Writes nothing that is there already.

        EdgeRefused, after all else was written, for a port that cannot be opened, a route that another service has,
        and an instance without an address; LeaseLost, with nothing written, for a state older than the one in force.
        """
        refusals: list[EdgeRefused] = []
        wanted = _without_conflicts(_with_addresses(routes, refusals), refusals)
        with self._folder.locked():
            self._prepare()
            self._refuse_older(wanted)
            by_port = _by_port(wanted)
            self._write_endpoints(wanted)
            ready = self._write_clusters(wanted)
            for port, group in by_port.items():
                self._write_table(port, group, ready)
            self._write_listeners(by_port, refusals)
            self._tidy(wanted, by_port)
        if refusals:
            raise refusals[0]

    def _refuse_older(self, routes: Sequence[Route]) -> None:
        ports = {route.port for route in routes}
        for port in ports:
            name = names.routes_file(port)
            if self._folder.age_seconds(name) > FENCE_SECONDS:
                continue
            held = _generations(self._folder.read(name))
            for route in routes:
                if route.port == port and held.get(route.service, 0) > route.generation:
                    raise LeaseLost(
                        f"The edge was told generation {held[route.service]} of {route.service}; "
                        f"{route.generation} comes too late."
                    )

    def _write_endpoints(self, routes: Sequence[Route]) -> None:
        for route in routes:
            for share in route.releases:
                name = names.endpoints_file(names.cluster_name(route.service, share.release))
                self._folder.write_if_other(name, config.discovery([config.endpoints(route, share)]))

    def _write_clusters(self, routes: Sequence[Route]) -> set[str] | None:
        """Add and change clusters; returns those that Envoy has taken up, None while no Envoy runs."""
        wanted = config.clusters(routes, self.settings)
        wanted_names = {cluster["name"] for cluster in wanted}
        before = (self._folder.read(CLUSTERS) or {}).get("resources", [])
        kept = [cluster for cluster in before if cluster["name"] not in wanted_names]
        self._folder.write_if_other(CLUSTERS, config.discovery(sorted([*wanted, *kept], key=lambda c: str(c["name"]))))
        return self._look(lambda: self._clusters_ready(wanted_names), lambda ready: ready >= wanted_names)

    def _clusters_ready(self, wanted: set[str]) -> set[str]:
        dump = self.admin.dump("dynamic_active_clusters", mask="cluster.name")
        return {item.get("cluster", {}).get("name", "") for item in dump} & wanted

    def _write_table(self, port: int, routes: Sequence[Route], ready: set[str] | None) -> None:
        """Write who answers, unless a release would get traffic whose cluster Envoy has not taken up yet."""
        name = names.routes_file(port)
        before = _generations(self._folder.read(name))
        if ready is not None and before:
            missing = {
                route.service for route in routes for share in route.releases
                if share.permille and names.cluster_name(route.service, share.release) not in ready
            }  # fmt: skip
            if missing:
                return
        table = envoy_routes.table(port, routes)
        self._folder.write_if_other(name, config.discovery([table], version=envoy_routes.version(routes)))

    def _write_listeners(self, by_port: Mapping[int, Sequence[Route]], refusals: list[EdgeRefused]) -> None:
        content = config.discovery(config.listeners(by_port, self.settings))
        changed = self._folder.write_if_other(LISTENERS, content)
        wanted = {names.listener_name(port) for port in by_port}
        state = self._look(self._listeners_seen, lambda seen: wanted <= set(seen) and not (changed and _broken(seen)))
        if state is None:
            return
        missing = [port for port in by_port if state.get(names.listener_name(port)) is not True]
        if missing and not changed:  # Envoy tries again when the file is renamed anew
            self._folder.write(LISTENERS, content)
            state = self._look(self._listeners_seen, lambda seen: all(seen.get(name) is True for name in wanted))
        for port in by_port:
            why = (state or {}).get(names.listener_name(port))
            if isinstance(why, str):
                refusals.append(_port_refused(port, by_port[port], why))

    def _listeners_seen(self) -> dict[str, bool | str]:
        """Listener -> True: it listens; else why it does not."""
        seen: dict[str, bool | str] = {}
        for item in self.admin.dump("dynamic_listeners"):
            if "active_state" in item:
                seen[item["name"]] = True
            elif "error_state" in item:
                error = item["error_state"]
                name = item.get("name") or error.get("failed_configuration", {}).get("name", "")
                seen[name] = str(error.get("details", "no reason given"))
        return seen

    def _tidy(self, routes: Sequence[Route], by_port: Mapping[int, Sequence[Route]]) -> None:
        """Take away what no route names any more, once Envoy does not use it."""
        wanted = config.clusters(routes, self.settings)
        in_force = self._look(self._tables_in_force, lambda seen: self._is_in_force(seen, by_port))
        if in_force is not None and not self._is_in_force(in_force, by_port):
            return
        self._folder.write_if_other(CLUSTERS, config.discovery(wanted))
        kept = {names.endpoints_file(cluster["name"]) for cluster in wanted}
        self._folder.remove_all_but("endpoints-", kept)
        self._folder.remove_all_but("routes-", {names.routes_file(port) for port in by_port})

    def _tables_in_force(self) -> dict[str, str]:
        dump = self.admin.dump("dynamic_route_configs")
        return {item.get("route_config", {}).get("name", ""): item.get("version_info", "") for item in dump}

    def _is_in_force(self, seen: Mapping[str, str], by_port: Mapping[int, Sequence[Route]]) -> bool:
        return all(
            seen.get(names.listener_name(port)) == envoy_routes.version(group) for port, group in by_port.items()
        )

    def _look(self, ask: Callable[[], T], enough: Callable[[T], bool]) -> T | None:
        """Ask until the answer is enough or the time is up; the last answer, or None while no Envoy runs."""
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                answer = ask()
            except EdgeUnavailable:
                return None
            if enough(answer) or time.monotonic() > deadline:
                return answer
            time.sleep(0.01)

    # --- asking ------------------------------------------------------------------------------

    def read_back(self) -> Mapping[str, RouteSeen]:
        """What Envoy really does. A service whose port could not be opened is not in it."""
        tables = self.admin.dump("dynamic_route_configs")
        hosts = self.admin.json("/clusters", format="json")
        listening = {name for name, state in self._listeners_seen().items() if state is True}
        return envoy_stats.routes_seen(tables, hosts, listening)

    def counters(self, service: str) -> CountersSeen:
        """What Envoy has counted since it started. A release that left the edge and came back begins at 0 again."""
        stats = self.admin.json(
            "/stats", format="json", histogram_buckets="detailed", filter=names.clusters_pattern(service)
        )
        hosts = self.admin.json("/clusters", format="json")
        return CountersSeen(self.epoch(), envoy_stats.counters(stats, hosts, service, self._slow_ms(service)))

    def _slow_ms(self, service: str) -> int:
        """The boundary that the service's route was written with."""
        for path in self.settings.folder.glob("routes-*.json"):
            found = envoy_routes.slow_ms_of(self._folder.read(path.name), service)
            if found is not None:
                return found
        return Route(service, 0).slow_request_ms

    def epoch(self) -> str:
        """Which start of Envoy this is: the moment when it took in its bootstrap."""
        answer = self.admin.json("/config_dump", mask="last_updated")
        for item in answer.get("configs", ()):
            if item.get("@type", "").endswith(".BootstrapConfigDump"):
                return str(item.get("last_updated", ""))
        raise EdgeUnavailable("Envoy does not say when it started.")


def _by_port(routes: Sequence[Route]) -> dict[int, list[Route]]:
    groups: dict[int, list[Route]] = {}
    for route in routes:
        groups.setdefault(route.port, []).append(route)
    return dict(sorted(groups.items()))


def _broken(seen: Mapping[str, bool | str]) -> bool:
    return any(state is not True for state in seen.values())


def _generations(content: Any) -> dict[str, int]:
    """Service -> generation, from a table's version."""
    version = str((content or {}).get("version_info", ""))
    return {service: int(number) for service, _, number in (part.partition("=") for part in version.split(",") if part)}


def _with_addresses(routes: Sequence[Route], refusals: list[EdgeRefused]) -> list[Route]:
    """The routes without instances whose host is no address: Envoy would refuse the whole file."""
    return [
        replace(
            route,
            releases=tuple(
                replace(
                    share,
                    endpoints=tuple(e for e in share.endpoints if _has_address(route.service, e.host, refusals)),
                )
                for share in route.releases
            ),
        )
        for route in routes
    ]


def _has_address(service: str, host: str, refusals: list[EdgeRefused]) -> bool:
    try:
        config.address_of(host)
    except ValueError:
        refusals.append(
            EdgeRefused(
                f"An instance of {service} is at {host}, which is no IP address.",
                remedy="Let its target give the address.",
            )
        )
        return False
    return True


def _without_conflicts(routes: Sequence[Route], refusals: list[EdgeRefused]) -> list[Route]:
    """Of services that want the same requests, the first by name has them; the others are refused."""
    taken: dict[tuple[int, str, str], str] = {}
    kept = []
    for route in sorted(routes, key=lambda r: r.service):
        keys = [(route.port, host.lower(), route.prefix) for host in route.hosts or ("*",)]
        holder = next((taken[key] for key in keys if key in taken), None)
        if holder is not None:
            refusals.append(
                EdgeRefused(
                    f"{route.service} and {holder} both want {route.prefix} on port {route.port}.",
                    remedy="Give one of them another prefix, host or port.",
                )
            )
            continue
        taken.update(dict.fromkeys(keys, route.service))
        kept.append(route)
    return kept


def _port_refused(port: int, routes: Sequence[Route], why: str) -> EdgeRefused:
    services = " and ".join(sorted(route.service for route in routes))
    if "in use" in why:
        return EdgeRefused(
            f"Port {port}, where the edge should answer for {services}, is in use by another program.",
            remedy="Stop that program, or give the service another port at the edge.",
        )
    if "ermission" in why:
        return EdgeRefused(
            f"Port {port}, where the edge should answer for {services}, may not be opened by Envoy's user.",
            remedy="Choose a port above 1023, or let Envoy bind it.",
        )
    return EdgeRefused(f"The edge cannot open port {port} for {services}: {why}", remedy="See Envoy's log.")
