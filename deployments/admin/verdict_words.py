"""The judge's verdict and the health score for people: a sentence, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.models import Deployment

from .words import VERDICTS, state_badge

#: The judge's numbers by name; one that is not here is shown by its own.
LABELS: Mapping[str, str] = {
    "e_errors": "Evidence from errors (e-value)",
    "e_slow": "Evidence from slow requests (e-value)",
    "threshold": "Evidence that is enough",
    "alpha": "Chance to abort a good release",
    "new_requests": "Requests of the new release",
    "old_requests": "Requests of the old release",
    "new_errors": "Errors of the new release",
    "old_errors": "Errors of the old release",
    "new_slow": "Slow requests of the new release",
    "old_slow": "Slow requests of the old release",
    "new_rate": "Error rate of the new release",
    "old_rate": "Error rate of the old release",
    "score": "Health score",
}


def verdict_shown(deployment: Deployment) -> dict[str, Any] | None:
    """None while there is no verdict."""
    verdict = deployment.verdict or {}
    if not verdict.get("outcome"):
        return None
    numbers = verdict.get("numbers") or {}
    return {
        "badge": state_badge(str(verdict["outcome"]), VERDICTS),
        "sentence": verdict.get("sentence", ""),
        "blame": verdict.get("blame", ""),
        "numbers": [
            (LABELS.get(name, name.replace("_", " ").capitalize()), _number(value)) for name, value in numbers.items()
        ],
    }


def _number(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
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
