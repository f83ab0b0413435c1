"""System checks of what beat needs to keep its promises about time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, register
from django.utils.module_loading import import_string

from controlplane.kernel.checks import check_error, docs_url


@register("zantara")
def check_beat_time_zones(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Crontabs in their own zone need both Django and beat to work with aware times."""
    if not (settings.USE_TZ and getattr(settings, "DJANGO_CELERY_BEAT_TZ_AWARE", True)):
        yield check_error(
            "zantara.E301",
            "Beat does not work with time zones, so crontabs run at the wrong hour.",
            hint="Set USE_TZ and DJANGO_CELERY_BEAT_TZ_AWARE to True.",
            docs=docs_url("schedules", "time-zones-and-clock-changes"),
        )


@register("zantara")
def check_beat_scheduler(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Another scheduler would not read the rows of the admin, or would misread them when clocks change."""
    from .scheduler import Scheduler

    path = getattr(settings, "CELERY_BEAT_SCHEDULER", "") or ""
    try:
        fits = issubclass(import_string(path.replace(":", ".")), Scheduler)
    except (ImportError, TypeError):
        fits = False
    if not fits:
        yield check_error(
            "zantara.E302",
            f"Beat's scheduler is {path or 'not set'}, not this project's.",
            hint="Set CELERY_BEAT_SCHEDULER to controlplane.schedules.scheduler:Scheduler.",
            docs=docs_url("schedules", "how-an-edit-reaches-beat"),
        )
