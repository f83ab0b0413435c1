"""What apps offer each other without knowing each other: each port is a protocol and a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from .registry import Registry


class ServiceControl(Protocol):
    """Stops and starts one service, for a restore that must not be written into meanwhile.

    Both are idempotent and return once the service has stopped or answers; they raise
    :class:`~controlplane.kernel.errors.Unavailable` where it did not happen within ``timeout_seconds``.
    """

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str: ...

    def stop(self, *, timeout_seconds: float) -> None: ...

    def start(self, *, timeout_seconds: float) -> None: ...

    def is_running(self) -> bool | None:
        """None where it cannot be told."""
        ...


#: Name of the provider -> the controls that it has at the moment. Asked anew each time: rows come and go.
service_controls: Registry[Callable[[], Iterable[ServiceControl]]] = Registry("provider of service controls")

#: What must be done once the control plane's own database was replaced while nothing ran. Each may run twice, says
#: in a sentence what it did, and raises a ZantaraError where that has to wait for the next start.
after_offline_restore: Registry[Callable[[], str]] = Registry("act after an offline restore")


def all_service_controls() -> dict[str, ServiceControl]:
    """Every service that can be stopped and started now, by name; of two with one name the first provider's."""
    found: dict[str, ServiceControl] = {}
    for provider in service_controls:
        for control in provider():
            found.setdefault(control.name, control)
    return found
