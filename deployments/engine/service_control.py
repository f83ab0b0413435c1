"""Services as restores see them: something that can be stopped, so that nobody writes meanwhile, and started again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controlplane.kernel import clock
from controlplane.kernel.errors import Unavailable
from controlplane.kernel.ports import ServiceControl, service_controls
from deployments.errors import TargetUnavailable
from deployments.models import Instance, Service, ServiceState

from .instances import target_of
from .tick import tick_service

POLL_SECONDS = 0.2
#: Before the names of other providers, which may have a child or a command of the same name.
PREFIX = "service-"


@dataclass(frozen=True)
class DeployedService:
    """The instances of one service. Held, they are stopped and stay so, whatever is deployed meanwhile."""

    service_name: str

    @property
    def name(self) -> str:
        return PREFIX + self.service_name

    @property
    def label(self) -> str:
        return f"{self.service_name} (deployed)"

    def stop(self, *, timeout_seconds: float) -> None:
        self._hold(held=True)
        if not self._until(lambda: self.is_running() is False, timeout_seconds):
            raise Unavailable(
                f"Not every instance of {self.service_name} stopped within {timeout_seconds:.0f} s.",
                remedy="See the service's page; it is held, and what still runs is killed after its grace.",
            )

    def start(self, *, timeout_seconds: float) -> None:
        self._hold(held=False)
        if not self._until(self._serves, timeout_seconds):
            raise Unavailable(
                f"The instances of {self.service_name} are not ready {timeout_seconds:.0f} s after they were let go.",
                remedy="See the service's page and its instances' logs; they are started on.",
            )

    def is_running(self) -> bool | None:
        """Whether any instance lives, as its target sees it; None where the target does not answer."""
        service = Service.objects.filter(name=self.service_name).first()
        if service is None:
            return False
        try:
            return any(one.running for one in target_of(service).find(service.name, service.target_settings))
        except TargetUnavailable:
            return None

    def _hold(self, *, held: bool) -> None:
        # No lease: a person's word is written past the tick, which reads it at its next turn.
        ServiceState.objects.filter(service__name=self.service_name).update(held=held, due_at=clock.now())

    def _serves(self) -> bool:
        state = ServiceState.objects.select_related("service").filter(service__name=self.service_name).first()
        if state is None or state.current_id is None or not state.service.enabled:
            return True  # there is nothing that would start
        ready = Instance.objects.filter(
            service=state.service, release=state.current_id, ready_since__isnull=False, stopping_since__isnull=True,
            stopped_at__isnull=True,
        ).count()  # fmt: skip
        return ready >= state.service.instances

    def _until(self, is_so: Callable[[], bool], timeout_seconds: float) -> bool:
        """Tick here as well: the workers may be what is stopped. Bounded; asks at least once."""
        deadline = time.monotonic() + timeout_seconds
        pk = Service.objects.filter(name=self.service_name).values_list("pk", flat=True).first()
        while True:
            if pk is not None:
                tick_service(pk)
            if is_so():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)


def controls() -> Iterator[ServiceControl]:
    """One control a service that has something deployed."""
    names = ServiceState.objects.filter(current__isnull=False).order_by("service__name")
    for name in names.values_list("service__name", flat=True):
        yield DeployedService(name)


def register_service_controls() -> None:
    service_controls.add("deployments", controls)
