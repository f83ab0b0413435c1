"""What the admin shows beside a profile's own fields: its use now, whether it is in force, who changed it last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Max

from . import policies
from .models import RateLimitProfile
from .usage import Usage, usage_of


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """``usage`` None: Redis does not answer, or nothing is counted. ``in_force`` None: nothing is known."""

    usage: Usage | None
    in_force: bool | None
    changed_at: datetime | None
    changed_by: str


def facts_of(profiles: Iterable[RateLimitProfile]) -> dict[int, ProfileFacts]:
    """The facts of a page of profiles: one SQL query, one round trip for the use and one for the version."""
    profiles = list(profiles)
    if not profiles:
        return {}
    usage = usage_of(profile.as_policy() for profile in profiles)
    in_force = policies.version_in_force()
    changes = _last_changes([profile.pk for profile in profiles])
    facts = {}
    for profile in profiles:
        at, by = changes.get(profile.pk, (None, ""))
        facts[profile.pk] = ProfileFacts(
            usage=usage.get(profile.pk),
            in_force=None if in_force is None else profile.version <= in_force,
            changed_at=at,
            changed_by=by,
        )
    return facts


def _last_changes(ids: list[int]) -> dict[int, tuple[datetime, str]]:
    records = RateLimitProfile.history
    newest = records.filter(id__in=ids).order_by().values("id").annotate(newest=Max("history_id")).values("newest")
    return {
        record.id: (record.history_date, str(record.history_user) if record.history_user else "")
        for record in records.filter(history_id__in=newest).select_related("history_user")
    }
