"""Tells the supervisor that a Celery worker consumes: loaded into the workers with ``--include``.

A log line would do, were it not for the log level; ``celery inspect ping`` takes seconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

#: Set by the supervisor: the file whose existence says "ready".
VARIABLE = "ZANTARA_READY_FILE"


@worker_ready.connect
def tell_supervisor(**_kwargs: Any) -> None:
    path = os.environ.get(VARIABLE)
    if path:
        Path(path).write_text(str(os.getpid()), encoding="ascii")
