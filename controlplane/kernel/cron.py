"""Cron expressions: read strictly, expanded as Celery expands them, and put into words. Pure.

The five fields are minute, hour, day of the month, month, day of the week. As in Celery, and unlike in
cron(8), a day must match *both* day fields. Numbers, names (``mon``, ``jan``), ``*``, lists, ranges
(which may wrap: ``22-2``) and steps (``*/15``, ``8-18/2``) are understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cron_descriptor
from celery import schedules
from celery.schedules import ParseException
from celery.utils.time import WEEKDAYS, YEARMONTHS  # type: ignore[attr-defined]  # not in celery-types

from controlplane.kernel.errors import Refused


class CronError(Refused):
    """This is no cron expression that beat could follow. The message names the field and the number."""


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    longest: int  # characters; the columns of django_celery_beat.CrontabSchedule
    names: Mapping[str, int]


_MONTHS: Mapping[str, int] = dict(YEARMONTHS)
_DAYS: Mapping[str, int] = dict(WEEKDAYS)  # Sunday is 0
_FIELDS = (
    _Field("minute", 0, 59, 240, {}),
    _Field("hour", 0, 23, 96, {}),
    _Field("day of the month", 1, 31, 124, {}),
    _Field("month", 1, 12, 64, _MONTHS),
    _Field("day of the week", 0, 6, 64, _DAYS),
)
_PART = re.compile(r"(?P<star>\*)?(?P<first>\w+)?(?:-(?P<last>\w+))?(?:/(?P<step>\w*))?", re.ASCII)


@dataclass(frozen=True)
class Cron:
    """The fields as they are written and the sets of numbers they stand for."""

    minute: str
    hour: str
    day_of_month: str
    month_of_year: str
    day_of_week: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Sunday is 0

    def __str__(self) -> str:
        return f"{self.minute} {self.hour} {self.day_of_month} {self.month_of_year} {self.day_of_week}"

    @property
    def runs_every_hour(self) -> bool:
        return len(self.hours) == 24

    def columns(self) -> dict[str, str]:
        """The fields under the names of ``CrontabSchedule``'s columns."""
        return {
            "minute": self.minute,
            "hour": self.hour,
            "day_of_month": self.day_of_month,
            "month_of_year": self.month_of_year,
            "day_of_week": self.day_of_week,
        }


@lru_cache(maxsize=512)
def expand(minute: str, hour: str, day_of_month: str, month_of_year: str, day_of_week: str) -> Cron:
    """What Celery makes of stored fields; raises :class:`CronError` where Celery cannot follow them."""
    try:
        known: Any = schedules.crontab(
            minute=minute,
            hour=hour,
            day_of_month=day_of_month,
            month_of_year=month_of_year,
            day_of_week=day_of_week,
        )
    except (ValueError, ParseException) as problem:
        raise CronError(f"Celery cannot follow this cron expression: {problem}") from None
    return Cron(
        minute,
        hour,
        day_of_month,
        month_of_year,
        day_of_week,
        tuple(sorted(known.minute)),
        tuple(sorted(known.hour)),
        frozenset(known.day_of_month),
        frozenset(known.month_of_year),
        frozenset(known.day_of_week),
    )


def parse(text: str) -> Cron:
    """Read five fields; raises :class:`CronError` with a sentence that says what is wrong with which."""
    parts = text.split()
    if not parts:
        raise CronError("The cron expression is empty.", remedy="Five fields are wanted, as in “30 3 * * 1”.")
    if len(parts) != len(_FIELDS):
        raise CronError(
            f"A cron expression has five fields (minute, hour, day of the month, month, day of the week); "
            f"this one has {len(parts)}."
        )
    written = [_check(field, part.lower()) for field, part in zip(_FIELDS, parts, strict=True)]
    try:
        return expand(*written)
    except CronError:
        raise CronError(f"Day {written[2]} never comes in month {written[3]}.") from None


def _check(field: _Field, text: str) -> str:
    text = ",".join(_check_part(field, part) for part in text.split(","))
    if len(text) > field.longest:
        raise CronError(f"The {field.name} field is longer than {field.longest} characters.")
    return text


def _check_part(field: _Field, part: str) -> str:
    match = _PART.fullmatch(part)
    if not part or match is None or (match["star"] is None) == (match["first"] is None):
        raise CronError(
            f"“{part}” is no {field.name}.", remedy="Use numbers, *, lists (1,5), ranges (1-5), steps (*/5)."
        )
    if match["last"] and match["star"]:
        raise CronError(f"“{part}” is no range of the {field.name}.")
    first, last = match["first"], match["last"]
    written = "*"
    if first is not None:
        start = _number(field, first)
        written = str(start % 7 if field.names is _DAYS else start)
        if last is not None:
            end = _number(field, last)
            # Sunday may be written 7; Celery knows it as 0 only, and its ranges wrap.
            written = "*" if field.names is _DAYS and (start, end) == (0, 7) else f"{written}-{_stored(field, end)}"
    if match["step"] is not None:
        step = match["step"]
        if not step.isdigit() or not 1 <= int(step) <= field.most:
            raise CronError(f"The step “{step}” of the {field.name} is not a number from 1 to {field.most}.")
        if first is not None and last is None:
            raise CronError(
                f"“{part}”: a step needs * or a range before it.", remedy=f"Write {first}-{field.most}/{step}."
            )
        written = f"{written}/{int(step)}"
    return written


def _stored(field: _Field, number: int) -> int:
    return number % 7 if field.names is _DAYS else number


def _number(field: _Field, word: str) -> int:
    named = field.names.get(word[:3]) if word.isalpha() else None
    if named is not None:
        return named
    if not word.isdigit():
        raise CronError(f"“{word}” is no {field.name}.")
    number = int(word)
    most = 7 if field.names is _DAYS else field.most
    if not field.least <= number <= most:
        raise CronError(f"{field.name} {number} is outside {field.least}–{most}.")
    return number


@lru_cache(maxsize=512)
def cron_in_words(cron: Cron) -> str:
    """“At 03:00, only on Monday”: British English, 24 hours; the bare fields where words fail."""
    options = cron_descriptor.Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_GB"
    try:
        return str(cron_descriptor.get_description(str(cron), options))
    except (
        cron_descriptor.MissingFieldException,
        cron_descriptor.FormatException,
        cron_descriptor.WrongArgumentException,
    ):
        return str(cron)


_UNITS = {"microseconds": "µs", "seconds": "s", "minutes": "min", "hours": "h", "days": "days"}


def interval_in_words(every: int, period: str) -> str:
    """“every 30 s”, “every 5 min”, “every day”."""
    if every == 1:
        return f"every {period.removesuffix('s')}"
    return f"every {every} {_UNITS[period]}"
