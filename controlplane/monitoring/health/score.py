"""The health score: one number for "may this go on?", asked by restores and by each stage of a rollout.

Pure. 0–100 is the weighted share of the components that passed. The API and the database are hard gates:
without them nothing else counts and the score is 0. A component that timed out, or that nobody has asked,
has failed: silence is no pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controlplane.kernel.errors import Refused
from controlplane.kernel.registry import ProbeResult

Verdict = Literal["pass", "fail", "timeout"]

#: A restore or a rollout's stage goes on from this score.
ENOUGH = 80


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the score. ``weight`` is a whole number above 0; ``gate``: the score is 0 without it."""

    name: str
    weight: int
    gate: bool = False


#: Either one of vector store and response time may fail and the score still suffices; two of the three
#: that are no gates do not, whichever they are.
COMPONENTS: tuple[Component, ...] = (
    Component("api", 25, gate=True),
    Component("database", 25, gate=True),
    Component("vector_store", 20),
    Component("memory", 10),
    Component("response_time", 20),
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one component; ``detail`` is for people and holds no secret."""

    component: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthScore:
    """The outcome. ``share`` is the weighted share that passed, gates or not; ``reasons`` say what is missing."""

    value: int
    share: int
    failed_gates: tuple[str, ...]
    reasons: tuple[str, ...]

    def suffices(self, least: int = ENOUGH) -> bool:
        """Whether it is high enough; never with a failed gate, however low the threshold."""
        return not self.failed_gates and self.value >= least


def observe(component: str, result: ProbeResult) -> Observation:
    """A probe's answer as an observation. A warning has still passed; ``unknown`` is what a late probe gets."""
    verdict: Verdict = (
        "pass" if result.status in ("pass", "warn") else "timeout" if result.status == "unknown" else "fail"
    )
    return Observation(component, verdict, result.summary)


def health_score(observations: Iterable[Observation], components: Sequence[Component] = COMPONENTS) -> HealthScore:
    """Score the components; leave one out of ``components`` where the installation has none of it.

    The number is rounded down, so that just under a threshold is never enough. Raises ``Refused`` for an
    observation of an unknown component, for two of the same one, and for components without weight.
    """
    seen = _by_component(observations, components)
    passed = [component for component in components if _passed(seen, component)]
    failed = [component for component in components if not _passed(seen, component)]
    share = 100 * sum(component.weight for component in passed) // sum(component.weight for component in components)
    gates = tuple(component.name for component in failed if component.gate)
    return HealthScore(
        value=0 if gates else share,
        share=share,
        failed_gates=gates,
        reasons=tuple(_reason(component, seen.get(component.name)) for component in failed),
    )


def _by_component(observations: Iterable[Observation], components: Sequence[Component]) -> Mapping[str, Observation]:
    names = [component.name for component in components]
    if not names or len(set(names)) != len(names) or any(component.weight < 1 for component in components):
        raise Refused("A health score needs components with different names and weights of 1 or more.")
    seen: dict[str, Observation] = {}
    for observation in observations:
        if observation.component not in names:
            raise Refused(f"{observation.component!r} is no component of this score.", remedy=f"Known: {names}.")
        if observation.component in seen:
            raise Refused(f"Two observations of {observation.component!r}; give one.")
        seen[observation.component] = observation
    return seen


def _passed(seen: Mapping[str, Observation], component: Component) -> bool:
    observation = seen.get(component.name)
    return observation is not None and observation.verdict == "pass"


def _reason(component: Component, observation: Observation | None) -> str:
    if observation is None:
        text = "was not observed"
    else:
        text = "timed out" if observation.verdict == "timeout" else "failed"
        text += f": {observation.detail}" if observation.detail else ""
    return f"{component.name} {text}" + (" (nothing counts without it)" if component.gate else "")
