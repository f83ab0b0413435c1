"""One of several processes that want the same rows: moves or leases each of them, and says which it won.

    python -m tests.kernel.racer move|lease NAME PK...

Says "ready", waits for a line, races, prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from controlplane.kernel.leases import acquire
    from controlplane.kernel.transitions import advance
    from tests.kernelapp.models import JOBS, Job, JobEvent

    kind, name, *keys = sys.argv[1:]
    jobs = [Job.objects.get(pk=int(key)) for key in keys]
    say("ready")
    sys.stdin.readline()
    won: list[int] = []
    called: list[int] = []
    for job in jobs:
        if kind == "move":
            then = lambda pk=job.pk: called.append(pk)  # noqa: E731
            if advance(job, "running", machine=JOBS, event=JobEvent, actor=name, changes={"worker": name}, then=then):
                won.append(job.pk)
        elif acquire(Job, job.pk, owner=name, ttl_seconds=60, now=datetime(2031, 1, 1, tzinfo=UTC)):
            won.append(job.pk)
    say(json.dumps({"won": won, "called": called}))


if __name__ == "__main__":
    main()
