"""State machines whose moves are decided by the database: exactly one of many processes makes a move.

A move is a compare-and-set UPDATE on the state that the caller saw, and an event row in the same
transaction. "Somebody else moved it first" is a normal answer, not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from django.core.exceptions import ObjectDoesNotExist
from django.db import models, router, transaction

from . import clock
from .errors import ConfigurationError, ForbiddenMove, LeaseLost, Refused
from .leases import Lease


@dataclass(frozen=True)
class Machine:
    """The allowed moves: each state, terminal ones too, with the states that may follow it.

    A table that names an unknown state, leads back into the same state or holds a state that cannot be
    reached raises ConfigurationError at import.
    """

    name: str
    moves: Mapping[str, Collection[str]]
    initial: str

    def __post_init__(self) -> None:
        if self.initial not in self.moves:
            raise ConfigurationError(f"{self.name}: the initial state {self.initial!r} is not in the table.")
        for state, targets in self.moves.items():
            if isinstance(targets, str):
                raise ConfigurationError(f"{self.name}: the moves from {state!r} are a text, not a collection.")
            for target in targets:
                if target not in self.moves:
                    raise ConfigurationError(f"{self.name}: {state!r} leads to {target!r}, which is not in the table.")
                if target == state:
                    # Two processes that both "move" a row to where it is could not be told apart.
                    raise ConfigurationError(f"{self.name}: {state!r} leads to itself.")
        unreachable = set(self.moves) - self._reachable()
        if unreachable:
            raise ConfigurationError(f"{self.name}: nothing leads to {', '.join(sorted(unreachable))}.")

    def _reachable(self) -> set[str]:
        found, waiting = {self.initial}, [self.initial]
        while waiting:
            for target in self.moves[waiting.pop()]:
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return found

    def allows(self, from_state: str, to_state: str) -> bool:
        """Whether the table holds this move; False for unknown states."""
        return to_state in self.moves.get(from_state, ())

    @property
    def terminal_states(self) -> frozenset[str]:
        """States that nothing leads out of."""
        return frozenset(state for state, targets in self.moves.items() if not targets)

    def edges(self) -> Iterator[tuple[str, str]]:
        """Every allowed move, in the table's order (targets sorted)."""
        for state, targets in self.moves.items():
            for target in sorted(targets):
                yield state, target

    def to_mermaid(self) -> str:
        """The table as a Mermaid state diagram, for pages and documents."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial}"]
        lines += [f"    {a} --> {b}" for a, b in self.edges()]
        lines += [f"    {state} --> [*]" for state in self.moves if state in self.terminal_states]
        return "\n".join(lines) + "\n"


class AppendOnlyQuerySet(models.QuerySet[Any]):
    """Rows that are written once. A deleted subject still takes its events with it."""

    def update(self, **kwargs: Any) -> NoReturn:
        raise Refused("Event rows are never changed.")

    def delete(self) -> NoReturn:
        raise Refused("Event rows are never deleted on their own.")

    def bulk_update(self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None) -> NoReturn:
        raise Refused("Event rows are never changed.")


class AppendOnlyManager(models.Manager[Any]):
    """Its ``update`` and ``delete`` are refused, as those of its querysets are."""

    def get_queryset(self) -> AppendOnlyQuerySet:
        return AppendOnlyQuerySet(self.model, using=self._db)


class TransitionEvent(models.Model):
    """One move that happened. A concrete subclass adds the foreign key ``subject``."""

    at = models.DateTimeField(editable=False)
    from_state = models.CharField(max_length=40, editable=False)
    to_state = models.CharField(max_length=40, editable=False)
    reason = models.TextField(blank=True, editable=False)
    actor = models.CharField(max_length=200, blank=True, editable=False)

    objects = AppendOnlyManager()

    class Meta:
        abstract = True
        ordering = ("at", "pk")
        get_latest_by = ("at", "pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Refused("Event rows are never changed.")
        # A row built by hand with a known key must not become an UPDATE of the present one.
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Refused("Event rows are never deleted on their own.")


def advance(  # noqa: PLR0913  (all but two are named at the call)
    obj: models.Model,
    to: str,
    *,
    machine: Machine,
    event: type[TransitionEvent],
    reason: str = "",
    actor: str = "",
    now: datetime | None = None,
    changes: Mapping[str, Any] | None = None,
    then: Callable[[], object] | None = None,
    field: str = "state",
    lease: Lease | None = None,
) -> bool:
    """Move ``obj`` from the state that the caller saw on it to ``to``; True if this call moved it.

    False: somebody else moved it first; ``obj`` is read again and says what it is now (it is left as it
    was if the row is gone). ``changes`` are written in the same UPDATE (``auto_now`` fields are not
    touched unless named there), the event row in the same transaction, and ``then`` runs once, after the
    commit of the outermost transaction, never on a rollback. With ``lease`` the move also needs that
    lease. After a rollback of an outer transaction ``obj`` must be read again.

    Raises ForbiddenMove if the table lacks the move, LeaseLost if ``lease`` is no longer ours; nothing is
    written then.
    """
    seen = getattr(obj, field)
    if not machine.allows(seen, to):
        allowed = ", ".join(sorted(machine.moves.get(seen, ()))) or "nothing"
        raise ForbiddenMove(
            f"{machine.name} {obj.pk} cannot go from {seen} to {to}.", remedy=f"From {seen} it can go to: {allowed}."
        )
    changes = dict(changes or {})
    model = type(obj)
    _refuse_bad_changes(model, field, changes)
    using = obj._state.db or router.db_for_write(model, instance=obj)
    with transaction.atomic(using=using):
        rows = model._base_manager.using(using).filter(pk=obj.pk, **{field: seen})
        if lease is not None:
            rows = rows.filter(**lease.condition())
        moved = rows.update(**{field: to}, **changes) == 1
        if moved:
            row: dict[str, Any] = {
                "subject": obj,
                "at": now or clock.now(),
                "from_state": seen,
                "to_state": to,
                "reason": reason,
                "actor": actor,
            }
            event(**row).save(using=using)
            if then is not None:
                transaction.on_commit(then, using=using)
    if not moved:
        _see_what_it_is_now(obj, using)
        if lease is not None and not lease.is_held():
            raise LeaseLost(f"{machine.name} {obj.pk} belongs to another worker now.")
        return False
    _show_on(obj, {field: to, **changes}, using)
    return True


def _refuse_bad_changes(model: type[models.Model], field: str, changes: Mapping[str, Any]) -> None:
    if field in changes:
        raise Refused(f"{field} is moved by the machine; it cannot be among the other changes.")
    if hasattr(model._meta, "simple_history_manager_attribute"):
        # An UPDATE passes history by, so such a row's history would have holes.
        raise ConfigurationError(f"{model.__name__} keeps history; a state machine keeps events instead.")


def _see_what_it_is_now(obj: models.Model, using: str) -> None:
    try:
        obj.refresh_from_db(using=using)
    except ObjectDoesNotExist:
        return


def _show_on(obj: models.Model, written: Mapping[str, Any], using: str) -> None:
    computed = [name for name, value in written.items() if hasattr(value, "resolve_expression")]
    for name, value in written.items():
        if name not in computed:
            setattr(obj, name, value)
    if computed:
        obj.refresh_from_db(using=using, fields=computed)
