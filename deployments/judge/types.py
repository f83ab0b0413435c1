"""What the judge is given and what it says. Plain frozen data; as JSON it is kept with the deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of one release between two ticks. ``errors`` are its own: neither our sheds nor our 429s."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    shed: int = 0
    limited: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one tick saw. ``new`` and ``old`` are None where the edge could not be asked, or began anew since.

    ``permille`` is the share that the new release really had. ``score`` is the health score of its instances
    (None: not asked); ``gates``: hard reasons against it (crash loop, out of memory, not ready in time).
    """

    at: datetime
    stage_index: int
    permille: int
    new: Counts | None = None
    old: Counts | None = None
    score: int | None = None
    score_reasons: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    active_new: int | None = None
    active_old: int | None = None
    p95_new_ms: float | None = None
    p95_old_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["at"] = self.at.isoformat()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        """The sample again; fields of a later release of this program are passed over."""
        values = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        values["at"] = datetime.fromisoformat(data["at"])
        for side in ("new", "old"):
            if values.get(side) is not None:
                values[side] = Counts(**{k: v for k, v in values[side].items() if k in Counts.__dataclass_fields__})
        for name in ("score_reasons", "gates"):
            values[name] = tuple(values.get(name) or ())
        return cls(**values)


@dataclass(frozen=True, slots=True)
class JudgePolicy:
    """How a release is judged. ``alpha``: the chance to abort one that is no worse, over its whole rollout.

    ``margin``: a worse odds ratio than this counts as worse (1.5: half as many errors again are tolerated).
    ``min_requests`` of the new release are needed in a stage before it can pass.
    """

    alpha: float = 0.01
    margin: float = 1.5
    error_budget: int = 100
    min_requests: int = 20
    min_score: int = 80


@dataclass(frozen=True, slots=True)
class Verdict:
    """``sentence`` says why, with its numbers; ``numbers`` holds them for the page (e_errors, e_slow, rates, n…).

    ``fail`` means: take it back now. ``pass`` means: nothing speaks against leaving the stage. ``blame`` names what
    decided: errors, slow, budget, gate, score, none; of an inconclusive one also data (no counts, or too few requests)
    and baseline (the old release fails as often).
    """

    outcome: Outcome
    sentence: str
    blame: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "sentence": self.sentence,
            "blame": self.blame,
            "numbers": dict(self.numbers),
        }
