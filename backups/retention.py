"""Which restore points are kept, and why. Pure: the same function previews a policy and carries it out.

* Hours, days, weeks (ISO), months and years are those of the calendar in the plan's zone; one without a set does not
  count. The newest set of each is kept, for as many as the rule says; while there are fewer, the oldest set stays.
* Only committed sets are given here. Damaged and partial ones are kept as if they counted, but take no other set's
  place: the rules are applied to all sets, and again to the whole and sound ones, and what either keeps is kept.
* Whatever the rules say: the last verified set (without one, the last), pinned ones, ones in use, and ones from the
  future are kept. The last are not the newest of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from statistics import median

from controlplane.kernel.errors import Refused


@dataclass(frozen=True)
class Rules:
    """So many of each; 0: the rule does not hold anything."""

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within_days: int = 0

    def check(self) -> None:
        """Refused where nothing would be kept, or a number is negative."""
        numbers = vars(self).values()
        if any(number < 0 for number in numbers):
            raise Refused("A retention rule is negative.", remedy="Write 0 for a rule that is not wanted.")
        if not any(numbers):
            raise Refused(
                "A retention policy without a rule would keep nothing.",
                remedy="Set at least one rule, for example keep within 30 days.",
            )


@dataclass(frozen=True)
class Set:
    """What retention looks at. ``at`` is when it was to be made: a run that ends after midnight is yesterday's."""

    key: int
    at: datetime
    verified: bool = False
    sound: bool = True  # whole (no source left out) and not damaged
    pinned: bool = False
    in_use_by: str = ""


@dataclass(frozen=True)
class Judgement:
    """``reasons`` in words, the most telling first; none where the set is not kept."""

    key: int
    keep: bool
    reasons: tuple[str, ...]


def judge(sets: Iterable[Set], rules: Rules, now: datetime, zone: tzinfo) -> list[Judgement]:
    """A judgement per set, newest first. Refused for an empty policy."""
    rules.check()
    ordered = sorted(sets, key=lambda one: (one.at, one.key), reverse=True)
    reasons: dict[int, list[str]] = {one.key: [] for one in ordered}
    past = [one for one in ordered if one.at <= now]
    for candidates in (past, [one for one in past if one.sound]):
        for key, reason in _by_rules(candidates, rules, now, zone):
            if reason not in reasons[key]:
                reasons[key].append(reason)
        if (last := _last(candidates)) is not None and last[1] not in reasons[last[0]]:
            reasons[last[0]].append(last[1])
    for one in ordered:
        if one.at > now:
            reasons[one.key].append("from the future")
        if one.pinned:
            reasons[one.key].append("pinned")
        if one.in_use_by:
            reasons[one.key].append(f"in use by {one.in_use_by}")
    return [Judgement(one.key, bool(reasons[one.key]), tuple(reasons[one.key])) for one in ordered]


def _last(past: Sequence[Set]) -> tuple[int, str] | None:
    verified = next((one for one in past if one.verified), None)
    if verified is not None:
        return verified.key, "last verified"
    return (past[0].key, "last committed, as none is verified") if past else None


_Bucket = Callable[[datetime], tuple[int, ...]]
#: Rule -> which bucket a local time falls into, how the bucket is called, and what such buckets are called.
_BUCKETS: Mapping[str, tuple[_Bucket, str, str]] = {
    "keep_hourly": (lambda at: (at.year, at.month, at.day, at.hour, int(at.fold)), "%Y-%m-%d %H h", "hours"),
    "keep_daily": (lambda at: (at.year, at.month, at.day), "%Y-%m-%d", "days"),
    "keep_weekly": (lambda at: at.isocalendar()[:2], "%G-W%V", "weeks"),
    "keep_monthly": (lambda at: (at.year, at.month), "%Y-%m", "months"),
    "keep_yearly": (lambda at: (at.year,), "%Y", "years"),
}


def _by_rules(past: Sequence[Set], rules: Rules, now: datetime, zone: tzinfo) -> Iterable[tuple[int, str]]:
    for place, one in enumerate(past[: rules.keep_last], start=1):
        yield one.key, "the newest" if place == 1 else f"among the newest {rules.keep_last}"
    for rule, (bucket_of, name, plural) in _BUCKETS.items():
        yield from _by_bucket(past, getattr(rules, rule), bucket_of, name, plural, zone)
    young = now - timedelta(days=rules.keep_within_days)
    for one in past:
        if rules.keep_within_days and one.at > young:
            yield one.key, f"younger than {rules.keep_within_days} days"


def _by_bucket(
    past: Sequence[Set], most: int, bucket_of: _Bucket, name: str, plural: str, zone: tzinfo
) -> Iterable[tuple[int, str]]:
    last: tuple[int, ...] | None = None
    count = 0
    for one in past:
        local = one.at.astimezone(zone)
        if count == most:
            return
        bucket = bucket_of(local)
        if bucket != last:
            last, count = bucket, count + 1
            yield one.key, f"newest of {local.strftime(name)}"
        elif one is past[-1]:
            yield one.key, f"the oldest, as not all {most} {plural} have one"


# --- an unusual drop --------------------------------------------------------------------------------------


#: A set is compared with the median of so many before it, and unusual below this share of it.
COMPARED_WITH, UNUSUAL_SHARE = 5, 0.5


@dataclass(frozen=True)
class Figures:
    """How much a set holds: bytes per source, and rows (documents, records, keys) per source where it counts them."""

    plain_bytes: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)


def unusual_drop(newest: Figures, before: Sequence[Figures]) -> str:
    """In a sentence, how much less the newest set holds than the last five (newest first); empty if it does not.

    Only sources that both hold are compared: one that was taken out of the plan is no loss.
    """
    before = before[:COMPARED_WITH]
    common = newest.plain_bytes.keys() & before[0].plain_bytes.keys() if before else set()
    sums = [sum(one.plain_bytes[name] for name in common) for one in before if common <= one.plain_bytes.keys()]
    held = sum(newest.plain_bytes[name] for name in common)
    if sums and held < UNUSUAL_SHARE * median(sums):
        return _drop("It", held, median(sums), "bytes")
    for name, rows in sorted(newest.rows.items()):
        usual = [one.rows[name] for one in before if name in one.rows]
        if usual and rows < UNUSUAL_SHARE * median(usual):
            return _drop(name, rows, median(usual), "rows")
    return ""


def _drop(what: str, now: int, usual: float, unit: str) -> str:
    return f"{what} holds {now} {unit}, {round(100 * (1 - now / usual))} % less than usual ({round(usual)})."
