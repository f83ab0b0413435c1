"""A worker of its own process: ``python -m tests.backups.restore.worker PK PATIENCE``; the environment says where it
dies."""

from __future__ import annotations

import os
import sys


def main() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from backups.restore import health
    from backups.restore.run import run_restore
    from controlplane.kernel import clock

    health._PAUSE_SECONDS = 0.05
    pk, patience_seconds = int(sys.argv[1]), float(sys.argv[2])
    ended = run_restore(pk, owner=f"worker-{os.getpid()}", now=clock.now(), patience_seconds=patience_seconds)
    sys.stdout.write(ended.state if ended is not None else "taken")


if __name__ == "__main__":
    main()
