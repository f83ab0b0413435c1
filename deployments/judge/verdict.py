"""The verdict on a new release: a tick's sample is folded into what is known, and a sentence says what it means. Pure.

In this order: a hard gate, errors, slow requests and the error budget *fail* it, which means: take it back now. Then
whatever speaks against leaving the stage makes it *inconclusive*: health that does not suffice, no counts, too few
requests, trouble that the old release has as well, a suspicion. What is left *passes*.

Mistakes: the tests on errors and on slow requests share ``alpha`` nine to one, so that both together call a release
worse that is not in at most ``alpha`` of the rollouts, however often they are looked at (``sequential``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.stages import FULL

from . import words
from .memory import Memory, fold, has_counts
from .sequential import Evidence, scale_odds
from .types import JudgePolicy, Sample, Verdict

#: The part of alpha that the test on errors may use; the rest is for slow requests.
ERRORS_PART = 0.9
#: From this share of errors on nothing is promoted, whoever's they are.
ALARMING_SHARE = 0.05
#: So many recent requests of a release say something about its share of errors, and more than one error of it.
ENOUGH_TO_ALARM, ERRORS_TO_ALARM = 8, 1.5
#: Evidence that is too little to decide on, and too much to give the release more traffic.
SUSPICION = 4.0


def judge(
    policy: JudgePolicy, state: Mapping[str, Any], sample: Sample, *, new: str = "", old: str = ""
) -> tuple[dict[str, Any], Verdict]:
    """Fold the sample into the state (empty at first; JSON) and give the verdict for the present stage.

    ``new`` and ``old`` are the versions, for the sentences. The state is the rollout's, not the stage's. A sample
    without counts leaves it as it was: it can neither promote a release nor, by itself, fail it.
    """
    memory = fold(Memory.from_json(state), sample, margin=policy.margin)
    return memory.to_json(), _Case(policy, memory, sample, new, old).verdict()


class _Case:
    """One verdict in the making: what it rests on, and the names of the two releases."""

    def __init__(self, policy: JudgePolicy, memory: Memory, sample: Sample, new: str, old: str) -> None:
        self.policy, self.memory, self.sample = policy, memory, sample
        self.new = words.release(new, otherwise="the new release")
        self.old = words.release(old, otherwise="the old release")
        self.errors_threshold = 1 / (policy.alpha * ERRORS_PART)
        self.slow_threshold = 1 / (policy.alpha * (1 - ERRORS_PART))
        self.e_errors, self.e_slow = memory.errors.e, memory.slow.e

    def verdict(self) -> Verdict:
        found = self._failure() or self._doubt()
        outcome, blame, text = found or ("pass", "none", self._no_worse())
        return Verdict(outcome, words.sentence(text), blame, self._numbers())  # type: ignore[arg-type]

    def _failure(self) -> tuple[str, str, str] | None:
        """What takes the release back."""
        memory = self.memory
        if self.sample.gates:
            return "fail", "gate", f"{self.new}: {'; '.join(gate.rstrip('.') for gate in self.sample.gates)}"
        if self.e_errors >= self.errors_threshold:
            return "fail", "errors", f"{self._failed(memory)}: {words.chance(self.e_errors)}"
        if self.e_slow >= self.slow_threshold:
            return "fail", "slow", f"{self._was_slow(memory)}: {words.chance(self.e_slow)}"
        if memory.budget.used > self.policy.error_budget:
            return (
                "fail", "budget",
                f"{self._failed(memory)}. That is {words.count(memory.budget.excess)} more than the old rate explains,"
                f" {words.count(memory.budget.used)} of them beyond chance; {self.policy.error_budget} are allowed",
            )  # fmt: skip
        return None

    def _doubt(self) -> tuple[str, str, str] | None:
        """What speaks against leaving the stage."""
        sample, least = self.sample, self.policy.min_requests
        if sample.score is not None and sample.score < self.policy.min_score:
            reasons = f": {'; '.join(sample.score_reasons)}" if sample.score_reasons else ""
            return (
                "inconclusive", "score",
                f"the health of {self.new} is {sample.score} of 100, {self.policy.min_score} are needed{reasons}",
            )  # fmt: skip
        if not has_counts(sample):
            return "inconclusive", "data", f"the edge gave no counts: nothing can be said of {self.new} meanwhile"
        if self.memory.stage.requests < least:
            had = words.count(self.memory.stage.requests)
            return (
                "inconclusive", "data",
                f"{self.new} had {had} of the {words.count(least)} requests that this stage needs: too few to judge",
            )  # fmt: skip
        return self._trouble() or self._suspicion()

    def _trouble(self) -> tuple[str, str, str] | None:
        """Many errors now, whoever's they are."""
        new, old = self.memory.recent_new, self.memory.recent_old
        if new.requests < ENOUGH_TO_ALARM or new.errors < ERRORS_TO_ALARM or new.error_share <= ALARMING_SHARE:
            return None
        here = f"{self.new} fails {words.share(new.errors, new.requests)} of its requests at the moment"
        if old.requests < ENOUGH_TO_ALARM or self.sample.permille >= FULL:
            return "inconclusive", "errors", f"{here}, too few to decide and too many to go on"
        there = f"{self.old} {words.share(old.errors, old.requests)}"
        if old.error_share > ALARMING_SHARE and new.error_share <= scale_odds(old.error_share, self.policy.margin):
            return "inconclusive", "baseline", f"{here}, {there}: {self.new} is no worse, and nothing goes on meanwhile"
        return "inconclusive", "errors", f"{here}, {there}: too few to decide and too many to go on"

    def _suspicion(self) -> tuple[str, str, str] | None:
        for blame, e, text in (
            ("errors", self.e_errors, self._failed), ("slow", self.e_slow, self._was_slow),
        ):  # fmt: skip
            if e >= SUSPICION:
                return "inconclusive", blame, f"{text(self.memory)}: {words.chance(e)}, too likely to go on yet"
        return None

    def _failed(self, memory: Memory) -> str:
        there = f", {self.old} {words.of(memory.old.errors, memory.old.requests)}" if memory.old.requests else ""
        return f"{self.new} failed {words.of(memory.new.errors, memory.new.requests, 'requests')}{there}"

    def _was_slow(self, memory: Memory) -> str:
        there = f", {self.old} {words.of(memory.old.slow, memory.old.timed)}" if memory.old.timed else ""
        return f"{self.new} was slow in {words.of(memory.new.slow, memory.new.timed, 'requests')}{there}"

    def _no_worse(self) -> str:
        health = "" if self.sample.score is None else f"; health {self.sample.score} of 100"
        return f"{self._failed(self.memory)}: no worse{health}"

    def _numbers(self) -> dict[str, Any]:
        """For the page. Shares are 0 to 1; E and thresholds are plain numbers."""
        memory, budget = self.memory, self.memory.budget
        return {
            "e_errors": _rounded(memory.errors),
            "e_slow": _rounded(memory.slow),
            "threshold_errors": round(self.errors_threshold, 2),
            "threshold_slow": round(self.slow_threshold, 2),
            "requests_new": memory.new.requests,
            "requests_old": memory.old.requests,
            "errors_new": memory.new.errors,
            "errors_old": memory.old.errors,
            "slow_new": memory.new.slow,
            "slow_old": memory.old.slow,
            "error_rate_new": round(memory.new.error_share, 6),
            "error_rate_old": round(memory.old.error_share, 6),
            "slow_rate_new": round(memory.new.slow_share, 6),
            "slow_rate_old": round(memory.old.slow_share, 6),
            "recent_error_rate_new": round(memory.recent_new.error_share, 6),
            "recent_error_rate_old": round(memory.recent_old.error_share, 6),
            "stage_requests": memory.stage.requests,
            "min_requests": self.policy.min_requests,
            "budget_excess": round(budget.excess, 1),
            "budget_used": round(budget.used, 1),
            "budget": self.policy.error_budget,
            "score": self.sample.score,
            "min_score": self.policy.min_score,
        }


def _rounded(evidence: Evidence) -> float:
    """E with three figures; what is beyond a million million says nothing more."""
    return float(f"{min(evidence.e, 1e12):.3g}")
