"""Ticks in processes of their own, which a test may kill or stop: python -m tests.deployments.engine.worker.

It is set up once, and begins a ticking process for each line that it reads: {"pk", "once", "environ"}. It answers with
the process's number, and with a second line once that has ended: how, and the last word of its ticks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import django

SECONDS = 60.0


def main() -> None:
    django.setup()
    from deployments.engine import tick  # noqa: F401  (imported once, for all of them)

    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.environ |= order["environ"]
            os.write(write, _tick(order).encode())
            os._exit(0)
        os.close(write)
        _say(pid)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read) as pipe:
            _say([os.waitstatus_to_exitcode(status), pipe.read()])


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _tick(order: dict[str, Any]) -> str:
    from deployments.engine.tick import tick_service
    from deployments.models import Deployment

    pk, until, said = order["pk"], time.monotonic() + SECONDS, []
    while time.monotonic() < until:
        said.append(tick_service(pk))
        newest = Deployment.objects.filter(service_id=pk).order_by("-pk").first()
        if order["once"] or (newest is not None and (newest.is_over or newest.state in ("rollback_blocked", "paused"))):
            break
        time.sleep(0.2)
    return ",".join(dict.fromkeys(said))


if __name__ == "__main__":
    main()
