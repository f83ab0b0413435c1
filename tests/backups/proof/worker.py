"""A proof worker in a process of its own, which a test may kill: python -m tests.backups.proof.worker PK."""

from __future__ import annotations

import os
import sys

import django


def main() -> None:
    django.setup()
    from backups.proof import run_proof

    proof = run_proof(int(sys.argv[1]), owner=f"worker-{os.getpid()}")
    sys.stdout.write(f"{proof.state if proof is not None else 'not mine'}\n")


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    main()
