"""The Celery application. Two queues: ``engine`` for ticks and heartbeats, ``work`` for all else."""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import setup_logging
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

app = Celery("controlplane")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["controlplane.schedules"])  # no app of INSTALLED_APPS
app.steps["worker"].add(DjangoStructLogInitStep)  # task ids in every line of a worker


@setup_logging.connect
def leave_logging_alone(**_: object) -> None:
    """Celery sets up no logging of its own where this signal has a receiver; Django has done it already."""
