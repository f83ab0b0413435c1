"""A target, an edge and a clock that do as a test says, and keep what was asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.kernel import clock
from deployments.edge.base import CountersSeen, EndpointSeen, ReleaseCounters, Route, RouteSeen
from deployments.engine import asking, instances, observe, publication
from deployments.engine.asking import Question, Said
from deployments.engine.tick import tick_service
from deployments.errors import CannotStart, EdgeUnavailable, TargetUnavailable
from deployments.models import Deployment, Service, ServiceState
from deployments.targets.base import InstanceSpec, Seen

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
DOCUMENT: dict[str, Any] = {"healthy": True, "services": {"database": "pass"}, "memory": {"percentage": 20.0}}


@dataclass
class FakeTarget:
    """Instances that are a dictionary."""

    kind: str = "fake"
    label: str = "fake"
    there: dict[str, Seen] = field(default_factory=dict)
    specs: list[InstanceSpec] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    away: bool = False
    cannot: dict[str, str] = field(default_factory=dict)

    def check_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return settings

    def check(self, spec: InstanceSpec) -> None: ...

    def ensure(self, spec: InstanceSpec) -> Seen:
        self._answer()
        if why := self.cannot.get(spec.release):
            raise CannotStart(why)
        present = self.there.get(spec.name)
        if present is None or not present.running:
            self.specs.append(spec)
            self.there[spec.name] = Seen(
                spec.service, spec.release, spec.slot, spec.name, True, "127.0.0.1", 20000 + len(self.specs),
                {"pid": len(self.specs)}, clock.now(),
            )  # fmt: skip
        return self.there[spec.name]

    def find(self, service: str, settings: Mapping[str, Any]) -> Sequence[Seen]:
        self._answer()
        return [one for one in self.there.values() if one.service == service]

    def stop(self, seen: Seen, settings: Mapping[str, Any], *, grace_seconds: float, asked_at: datetime | None) -> None:
        self._answer()
        self.stopped.append(seen.name)
        self.there[seen.name] = replace(self.there[seen.name], running=False, exit_code=0)

    def forget(self, seen: Seen, settings: Mapping[str, Any]) -> None:
        self.there.pop(seen.name, None)

    def log_tail(self, seen: Seen, settings: Mapping[str, Any], *, most_bytes: int = 16384) -> str:
        return ""

    def kill(self, name: str, **columns: Any) -> None:
        self.there[name] = replace(self.there[name], running=False, exit_code=-9, **columns)

    def running(self, release: str) -> list[str]:
        return sorted(one.name for one in self.there.values() if one.release == release and one.running)

    def _answer(self) -> None:
        if self.away:
            raise TargetUnavailable("It is away.")


@dataclass
class FakeEdge:
    """A proxy that does at once what it is told, and counts what a test lets it count."""

    routes: dict[str, Route] = field(default_factory=dict)
    counted: dict[str, ReleaseCounters] = field(default_factory=dict)
    epoch: str = "1"
    away: bool = False
    told: int = 0
    unseen: set[str] = field(default_factory=set)
    """Instances that it has not found healthy (yet)."""

    def check(self) -> None: ...

    def apply(self, routes: Sequence[Route]) -> None:
        self.told += 1
        self.routes = {route.service: route for route in routes}

    def read_back(self) -> Mapping[str, RouteSeen]:
        if self.away:
            raise EdgeUnavailable("It is away.")
        return {
            name: RouteSeen(
                name,
                route.generation,
                {one.release: one.permille for one in route.releases},
                {
                    one.release: tuple(
                        EndpointSeen(e.name, e.host, e.port, not e.draining and e.name not in self.unseen)
                        for e in one.endpoints
                    )
                    for one in route.releases
                },
            )
            for name, route in self.routes.items()
        }

    def counters(self, service: str) -> CountersSeen:
        if self.away:
            raise EdgeUnavailable("It is away.")
        return CountersSeen(self.epoch, dict(self.counted))

    def serve(self, release: str, requests: int, errors: int = 0) -> None:
        before = self.counted.get(release, ReleaseCounters())
        self.counted[release] = replace(before, requests=before.requests + requests, errors=before.errors + errors)

    def split(self, service: str) -> dict[str, int]:
        return {one.release: one.permille for one in self.routes[service].releases if one.permille}


class Stage:
    """One service between the fakes. ``tick`` is a tick two seconds later, with traffic in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target, self.edge = FakeTarget(), FakeEdge()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.unready: set[str] = set()
        self.silent: set[str] = set()
        self.document: dict[str, Any] = dict(DOCUMENT)
        self.errors: dict[str, float] = {}
        self.rps = 50
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(clock, "monotonic", self._seconds)
        monkeypatch.setattr(instances, "target_of", lambda service: self.target)
        for module in ("effects", "service_control"):
            monkeypatch.setattr(f"deployments.engine.{module}.target_of", lambda service: self.target)
        monkeypatch.setattr(publication, "edge", lambda: self.edge)
        monkeypatch.setattr("deployments.engine.judging.edge", lambda: self.edge)
        monkeypatch.setattr(observe, "ask", self._ask)

    def _seconds(self) -> float:
        return (self.now - EPOCH).total_seconds()

    def _ask(self, questions: Sequence[Question]) -> dict[str, Said]:
        assert asking.EACH_SECONDS > 0
        return {one.name: self._said(one) for one in questions}

    def _said(self, question: Question) -> Said:
        release = self.target.there[question.name].release
        if release in self.silent:
            return Said(question.name, None, "no answer", timed_out=True)
        ready = release not in self.unready and question.name not in self.unready
        return Said(question.name, ready, "" if ready else "answers 503", self.document)

    def tick(self, service: Service, times: int = 1, *, seconds: float = 2.0) -> str:
        said = ""
        for _ in range(times):
            self.now += timedelta(seconds=seconds)
            self._traffic(service, seconds)
            said = tick_service(service.pk, owner="test")
        return said

    def _traffic(self, service: Service, seconds: float) -> None:
        if service.name not in self.edge.routes:
            return
        for release, permille in self.edge.split(service.name).items():
            requests = round(self.rps * seconds * permille / 1000)
            self.edge.serve(release, requests, round(requests * self.errors.get(release, 0.0)))

    def until(self, deployment: Deployment, state: str, *, ticks: int = 60) -> Deployment:
        for _ in range(ticks):
            deployment.refresh_from_db()
            if deployment.state == state:
                return deployment
            self.tick(deployment.service)
        deployment.refresh_from_db()
        path = list(deployment.events.values_list("to_state", "reason"))
        assert deployment.state == state, path
        return deployment


def state_of(service: Service) -> ServiceState:
    return ServiceState.objects.select_related("current", "previous").get(service=service)
