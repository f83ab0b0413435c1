"""The judge's verdict and the health score for people: a sentence, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.models import Deployment

from .words import VERDICTS, state_badge

#: What is counted of both releases: title, the judge's name for it (with _new and _old), and whether it is a share.
SIDES: tuple[tuple[str, str, bool], ...] = (
    ("Requests", "requests", False),
    ("Errors", "errors", False),
    ("Error rate", "error_rate", True),
    ("Error rate of late", "recent_error_rate", True),
    ("Slow requests", "slow", False),
    ("Rate of slow ones", "slow_rate", True),
)
#: The judge's other numbers by name; one that is not here is shown by its own.
LABELS: Mapping[str, str] = {
    "e_errors": "Evidence from errors",
    "threshold_errors": "Enough evidence from errors",
    "e_slow": "Evidence from slow requests",
    "threshold_slow": "Enough evidence from slow requests",
    "stage_requests": "Requests in this stage",
    "min_requests": "Requests that a stage needs",
    "budget_excess": "Errors beyond the old release's rate",
    "budget_used": "Of that, against the budget",
    "budget": "Error budget",
    "score": "Health score",
    "min_score": "Health score that a stage needs",
}


def verdict_shown(deployment: Deployment) -> dict[str, Any] | None:
    """None while there is no verdict."""
    verdict = deployment.verdict or {}
    if not verdict.get("outcome"):
        return None
    numbers = verdict.get("numbers") or {}
    both = {f"{name}_{side}" for _, name, _ in SIDES for side in ("new", "old")}
    return {
        "badge": state_badge(str(verdict["outcome"]), VERDICTS),
        "sentence": verdict.get("sentence", ""),
        "blame": verdict.get("blame", ""),
        "sides": [
            (
                title,
                _number(numbers.get(f"{name}_new"), share=is_share),
                _number(numbers.get(f"{name}_old"), share=is_share),
            )
            for title, name, is_share in SIDES
            if f"{name}_new" in numbers
        ],
        "numbers": [
            (LABELS.get(name, name.replace("_", " ").capitalize()), _number(value))
            for name, value in sorted(numbers.items(), key=_rank)
            if name not in both
        ],
    }


def _rank(pair: tuple[str, object]) -> tuple[int, str]:
    """In the order of the labels; PostgreSQL keeps none of its own."""
    order = list(LABELS)
    return (order.index(pair[0]) if pair[0] in order else len(order), pair[0])


def _number(value: object, *, share: bool = False) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if share and isinstance(value, int | float):
        return f"{value:.2%}".replace("%", " %")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_number(one) for one in value)
    return "–" if value is None else str(value)


def health_shown(deployment: Deployment) -> dict[str, Any] | None:
    """The last health score with what speaks against it; None where it was not asked for yet."""
    health = deployment.health or {}
    score = health.get("value", health.get("score"))
    if score is None:
        return None
    least = deployment.policy.get("min_health_score", 80)
    return {
        "score": score,
        "least": least,
        "tone": "ok" if score >= least else "bad",
        "icon": "check_circle" if score >= least else "error",
        "words": "enough" if score >= least else "too low",
        "reasons": list(health.get("reasons") or ()),
    }
