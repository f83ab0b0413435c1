"""What the start page shows of the limits: use per role in the current window, and the steps of the setup."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from controlplane.kernel.registry import Card, SetupStep

from . import policies
from .decision import Policy
from .models import PolicyVersion, RateLimitProfile
from .usage import Usage, usage_of
from .wording import limit_words

#: Rows on the card; the list in the admin has the rest.
MOST_ROWS = 8


def _changelist() -> str:
    return reverse("admin:ratelimits_ratelimitprofile_changelist")


def use_now() -> dict[str, Any]:
    """The busiest active profiles, most denials first. Two SQL queries, two round trips to Redis."""
    active = [profile.as_policy() for profile in RateLimitProfile.objects.filter(active=True)]
    usage = usage_of(active)
    rows: list[dict[str, Any]] = [
        {
            "role": policy.role,
            "narrowed": " ".join(part for part in (policy.route_prefix, policy.subject) if part),
            "limit": limit_words(policy),
            "is_shadow": not policy.enforced,
            "use": usage.get(policy.id),
            "used_percent": _used_percent(policy, usage.get(policy.id)),
        }
        for policy in active
    ]
    rows.sort(key=lambda row: (-row["use"].denied, -row["use"].allowed) if row["use"] else (0, 0))
    in_force = policies.version_in_force()
    return {
        "rows": rows[:MOST_ROWS],
        "more": max(0, len(rows) - MOST_ROWS),
        "redis_answers": in_force is not None,
        "version": PolicyVersion.current(),
        "in_force": in_force,
        "url": _changelist(),
    }


def _used_percent(policy: Policy, use: Usage | None) -> int | None:
    """How much of what its callers may do together in a window was done; None where that has no bound."""
    if use is None or not policy.requests:
        return None
    return min(100, round(100 * use.allowed / (policy.requests * max(1, use.callers))))


CARD = Card(name="limits", title="Callers now", template="ratelimits/card.html", context=use_now)


def _has_profiles() -> bool:
    return RateLimitProfile.objects.filter(active=True).exists()


def _is_in_force() -> bool:
    in_force = policies.version_in_force()
    return in_force is not None and 0 < PolicyVersion.current() <= in_force


def _was_tuned() -> bool:
    return bool(RateLimitProfile.history.filter(history_user__isnull=False).exists())


STEPS = (
    SetupStep(
        name="limits.profiles",
        label="Say who may call how often",
        is_done=_has_profiles,
        url=_changelist,
        help="No profile is active, so nobody is limited. Add or activate one.",
    ),
    SetupStep(
        name="limits.in_force",
        label="Put the limits in force",
        is_done=_is_in_force,
        url=_changelist,
        help="What is saved is not published yet. It is tried every 10 s; a worker for the queue “engine” must run.",
    ),
    SetupStep(
        name="limits.tuned",
        label="Set the limits that fit your callers",
        is_done=_was_tuned,
        url=_changelist,
        help="The profiles are as they came. Change one, or begin with a shadow that only counts.",
    ),
)
