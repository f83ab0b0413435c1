"""``free_space.py LEAST_BYTES PATH…``: one line of JSON a path; exit code 1 where one has less, 2 where none tells."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Print what is free at each path."""
    least, paths = int(arguments[0]), arguments[1:]
    enough = True
    for path in paths:
        try:
            free = shutil.disk_usage(path).free
        except OSError as error:
            sys.stdout.write(f"{path}: {error.strerror}\n")
            return 2
        enough = enough and free >= least
        line = {"free_bytes": free, "least_bytes": least, "path": str(Path(path).resolve())}
        sys.stdout.write(json.dumps(line) + "\n")
    return 0 if enough else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
