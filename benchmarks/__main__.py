"""``python -m benchmarks``: run all benchmarks and print their tables. Exit code 1 only if one could not run."""

from __future__ import annotations

import sys
import traceback

from benchmarks import (
    backup_chroma,
    backup_kills,
    backup_postgres,
    backups,
    dashboard,
    edge,
    judge,
    layers,
    limiter,
    restarts,
    rollout_histories,
    rollouts,
    shedding,
)

BENCHMARKS = {
    "limiter": limiter.main,
    "layers": layers.main,
    "restarts": restarts.main,
    "shedding": shedding.main,
    "dashboard": dashboard.main,
    "backups": backups.main,
    "backup_postgres": backup_postgres.main,
    "backup_chroma": backup_chroma.main,
    "backup_kills": backup_kills.main,
    "judge": judge.main,
    "rollout_histories": rollout_histories.main,
    "rollouts": rollouts.main,
    "edge": edge.main,
}


def main(names: list[str]) -> int:
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 1
    failed = False
    for name in names or BENCHMARKS:
        try:
            BENCHMARKS[name]()
        except Exception:  # noqa: BLE001  (the others still run; what broke is shown whole)
            traceback.print_exc()
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
