"""Tasks that go well, fail and die, for ``test_work_metrics.py``; the worker is otherwise the control plane's."""

from __future__ import annotations

import os
import signal

from celery import shared_task


@shared_task(name="toy.well")
def well() -> None:
    return None


@shared_task(name="toy.bad")
def bad() -> None:
    raise ValueError("as told")


@shared_task(name="toy.dies", reject_on_worker_lost=False)
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
