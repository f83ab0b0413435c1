"""Why was this caller denied? What a decision id holds, beside what the profile says today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .decision import Policy
from .headers import Explanation, explain
from .limiter import get_limiter, keys
from .models import RateLimitProfile
from .wording import duration_words, limit_words


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """``record`` is the profile's history entry that held at the decision; None if there is none (any more)."""

    decision: Explanation
    profile: RateLimitProfile | None
    record: Any | None

    @property
    def limit_then(self) -> str:
        return f"{self.decision.limit} / {duration_words(self.decision.window_seconds)}"

    @property
    def limit_now(self) -> str:
        return limit_words(self.profile.as_policy()) if self.profile is not None else ""

    @property
    def version_now(self) -> int | None:
        return None if self.profile is None else self.profile.version

    @property
    def policy_then(self) -> Policy | None:
        """The profile as the limiter saw it then, as far as its history knows."""
        row = self.record.instance if self.record is not None else self.profile
        return None if row is None else row.as_policy()

    @property
    def counted_per(self) -> str:
        policy = self.policy_then
        return "" if policy is None else str(RateLimitProfile.Key(policy.key).label)

    def is_caller(self, *, subject: str, address: str) -> bool | None:
        """Whether this caller was the one; None if it cannot be told because the profile is not known."""
        policy = self.policy_then
        if policy is None:
            return None
        return keys.caller_text(get_limiter().caller_hash(policy, subject=subject, address=address)) == (
            self.decision.key_hash
        )


def explain_decision(decision_id: str) -> ExplainedDecision:
    """Read a decision id as a 429 carries it; NotAuthentic or Refused if it was forged or garbled."""
    decision = explain(decision_id.strip())
    history = RateLimitProfile.history.filter(id=decision.policy_id).select_related("history_user")
    return ExplainedDecision(
        decision=decision,
        profile=RateLimitProfile.objects.filter(pk=decision.policy_id).first(),
        record=history.filter(version__lte=decision.policy_version).exclude(history_type="-").first(),
    )
