"""Registries: how a lower room learns of things that higher rooms bring.

A registry is declared once, here; an app adds its entries in ``AppConfig.ready()``. Names are
unique and the registry of names is closed: a typing error is an error at start, not a silent hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from .errors import ConfigurationError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one kind, in the order in which they were added."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Add an entry; the same entry twice is fine (``ready()`` may run again in tests)."""
        present = self._entries.get(name)
        if present is not None and present != entry:
            raise ConfigurationError(f"Two different entries named {name!r} for {self.what}.")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries)) or "none"
            raise ConfigurationError(f"There is no {self.what} named {name!r}.", remedy=f"Known: {known}.") from None

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._entries.values()))

    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe saw. ``unknown`` means that nothing could be learned, not that all is well."""

    status: Literal["pass", "warn", "fail", "unknown"]
    summary: str
    remedy: str = ""
    observed: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Probe:
    """A question about one component, answered within ``timeout_seconds``.

    ``critical`` means that this process cannot serve without it: only such a probe makes ``/readyz``
    unready. Others warn on the pages and in ``manage.py doctor``.
    """

    name: str
    label: str
    run: Callable[[], ProbeResult]
    critical: bool = False
    timeout_seconds: float = 0.5
    docs: str = ""


@dataclass(frozen=True)
class ScheduleSpec:
    """A periodic task that the code brings; bootstrap reconciles it with beat's tables.

    Exactly one of ``every_seconds`` and ``cron`` (five fields) is given. ``editable`` False keeps
    an operator's edit from holding: the row is put back at each bootstrap. ``expires_seconds`` is a
    little shorter than the period, so that a worker which was away does not wake to a pile of them.
    """

    name: str
    task: str
    label: str
    description: str
    every_seconds: int | None = None
    cron: str | None = None
    timezone: str = "UTC"
    queue: str = "work"
    expires_seconds: int | None = None
    editable: bool = True
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetupStep:
    """A line of the start page's checklist: what to do next, until it is done."""

    name: str
    label: str
    is_done: Callable[[], bool]
    url: Callable[[], str]
    help: str = ""


@dataclass(frozen=True)
class Card:
    """A card on the start page. ``context`` gives the template's variables in few queries."""

    name: str
    title: str
    template: str
    context: Callable[[], dict[str, Any]]


probes: Registry[Probe] = Registry("health probe")
schedules: Registry[ScheduleSpec] = Registry("schedule")
setup_steps: Registry[SetupStep] = Registry("setup step")
cards: Registry[Card] = Registry("start-page card")
