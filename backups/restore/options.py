"""What an operator may choose for a restore, with the defaults of the first Zantara. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from backups.errors import CannotRestore
from controlplane.kernel.errors import Refused

#: A score below which a restored system counts as unwell and the restore is taken back.
MINIMUM_SCORE = 80


class Grouped(Protocol):
    """What choosing needs of a part: its name and the group of its kind."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """``services``: which ones are stopped; with ``stop_services`` and none named, those that have commands.

    ``without_safety_backup`` is for a source that is wholly gone, so that nothing can be captured before.
    """

    stop_services: bool = False
    services: tuple[str, ...] = field(default_factory=tuple)
    vectors: bool = True
    configuration: bool = False
    userdata: bool = False
    databases: bool = False
    logs: bool = False
    minimum_score: int = MINIMUM_SCORE
    without_safety_backup: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Options:
        """Read what a form, a command line or a row holds; Refused for an unknown or nonsensical option."""
        given = dict(given or {})
        known = {option.name for option in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise Refused(f"A restore has no option {unknown[0]!r}.", remedy=f"It has: {', '.join(sorted(known))}.")
        services = given.pop("services", ())
        if isinstance(services, str) or not all(isinstance(name, str) for name in services):
            raise Refused("The option 'services' is a list of names.")
        score = given.pop("minimum_score", MINIMUM_SCORE)
        if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= 100:
            raise Refused("The option 'minimum_score' is a whole number from 0 to 100.")
        if wrong := sorted(name for name, value in given.items() if not isinstance(value, bool)):
            raise Refused(f"The option {wrong[0]!r} is true or false.")
        return cls(services=tuple(dict.fromkeys(services)), minimum_score=score, **given)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "services": list(self.services)}

    @property
    def stops_services(self) -> bool:
        return self.stop_services or bool(self.services)

    def wants(self, group: str) -> bool:
        """Whether parts of this group are restored where none are named."""
        return bool(getattr(self, group, False))


def choose(parts: Iterable[Grouped], named: Sequence[str], options: Options) -> list[str]:
    """The names of the parts to restore: those that are named, else those whose groups the options say.

    CannotRestore for an unknown name, and where nothing would be restored.
    """
    there = list(parts)
    if named:
        known = {part.name for part in there}
        if missing := [name for name in named if name not in known]:
            raise CannotRestore(
                f"The restore point has no part {missing[0]!r}.",
                remedy=f"It has: {', '.join(sorted(known)) or 'none'}.",
            )
        return [part.name for part in there if part.name in set(named)]
    chosen = [part.name for part in there if options.wants(part.group)]
    if not chosen:
        groups = ", ".join(sorted({part.group for part in there})) or "nothing"
        raise CannotRestore(
            "With these options nothing is restored.", remedy=f"Name the parts, or choose of its groups: {groups}."
        )
    return chosen
