"""A Celery application with one long task, for ``test_cold_stop.py``; its settings are the control plane's."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("toy", broker=os.environ.get("TOY_BROKER", "memory://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    task_default_queue="work",
)


@app.task(name="toy.long")
def long(started: str) -> None:
    with open(started, "w"):  # noqa: PTH123
        time.sleep(120)
