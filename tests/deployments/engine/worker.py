"""Ticks in a process of their own, which a test may kill or stop: python -m tests.deployments.engine.worker PK SECONDS.

It ticks the service every half second until the deployment that it is at is over, or for so many seconds; the line
that it prints at its end is the last word of its ticks.
"""

from __future__ import annotations

import sys
import time

import django


def main() -> None:
    django.setup()
    from deployments.engine.tick import tick_service
    from deployments.models import Deployment

    pk, until, said = int(sys.argv[1]), time.monotonic() + float(sys.argv[2]), ""
    once = "--once" in sys.argv
    while time.monotonic() < until:
        said = tick_service(pk)
        newest = Deployment.objects.filter(service_id=pk).order_by("-pk").first()
        if once or (newest is not None and (newest.is_over or newest.state in ("rollback_blocked", "paused"))):
            break
        time.sleep(0.3)
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
