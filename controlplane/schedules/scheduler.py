"""Beat's scheduler: django-celery-beat's, with three defects of it mended.

* It writes back only what beat itself changes. The original reads a row, sets three fields and writes
  *all* of them, so that an operator's save between its read and its write is undone.
* It sees a change that falls between its first read and its first look for changes (up to 5 s after its
  start), and the first one ever. The original sees either five minutes later.
* Its crontabs keep which pass of a repeated hour a time belongs to (see ``nextruns``).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry
from django_celery_beat.tzcrontab import TzAwareCrontab

from controlplane.kernel.cron import expand
from controlplane.kernel.nextruns import next_run

#: Before every change, so that the first one is newer than the last that was seen.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class SteadyCrontab(TzAwareCrontab):
    """A crontab in a time zone that is right on the days on which clocks change."""

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = None) -> timedelta:
        """How long from now until the first run after ``last_run_at`` (aware); negative if it is late."""
        cron = expand(
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_month,
            self._orig_month_of_year,
            self._orig_day_of_week,
        )
        run = next_run(cron, self.tz, self.maybe_make_aware(last_run_at))
        if run is None:
            return timedelta(days=365)
        now: datetime = self.maybe_make_aware(self.now())
        return run.at.astimezone(UTC) - now.astimezone(UTC)


class Entry(ModelEntry):
    """One row as beat holds it in memory."""

    def __init__(self, model: PeriodicTask, app: Any = None) -> None:
        super().__init__(model, app=app)
        if model.crontab is not None:
            row = model.crontab
            self.schedule = SteadyCrontab(
                minute=row.minute,
                hour=row.hour,
                day_of_week=row.day_of_week,
                day_of_month=row.day_of_month,
                month_of_year=row.month_of_year,
                tz=row.timezone,
            )

    def save(self) -> None:
        """Write back the last run and the count, and nothing that an operator may have just changed."""
        row = PeriodicTask.objects.get(pk=self.model.pk)
        if not row.enabled:
            return  # disabled meanwhile: the last run stays empty, so that enabling starts afresh
        if row.last_run_at is None and row.date_changed > self.model.last_run_at:
            return  # its schedule was changed meanwhile and counts from that change
        row.no_changes = True
        row.last_run_at = self.model.last_run_at
        row.total_run_count = self.model.total_run_count
        row.save(update_fields=["last_run_at", "total_run_count"])


class Scheduler(DatabaseScheduler):
    """The value of ``CELERY_BEAT_SCHEDULER``."""

    Entry = Entry
    _last_timestamp: datetime | None = None

    def all_as_schedule(self) -> Any:
        """The rows; what counts as a change from now on is noted before they are read."""
        if self._last_timestamp is None:
            self._last_timestamp = self.Changes.last_change() or _NEVER
        return super().all_as_schedule()

    def schedule_changed(self) -> bool:
        """Whether a row was saved or deleted since the last look."""
        changed = bool(super().schedule_changed())
        self._last_timestamp = self._last_timestamp or _NEVER
        return changed

    def install_default_entries(self, data: Any) -> None:
        """None: Celery's own entry cleans a result backend that this project does not have."""
