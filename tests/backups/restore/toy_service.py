"""A service of its own process: ``python toy_service.py start|stop|status FOLDER``. Its pid is in ``FOLDER/pid``.

Every start and stop adds a line to ``FOLDER/log``. A file ``FOLDER/broken-start`` or ``broken-stop`` makes that fail.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def pid_of(folder: Path) -> int | None:
    try:
        pid = int((folder / "pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else pid


def main() -> int:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    pid = pid_of(folder)
    if verb == "status":
        return 0 if pid else 3
    if (folder / f"broken-{verb}").exists():
        sys.stderr.write(f"cannot {verb}: password=hunter2\n")
        return 7
    with (folder / "log").open("a") as log:
        log.write(f"{verb}\n")
    if verb == "start":
        if not pid:
            child = os.fork()
            if child == 0:
                os.setsid()
                (folder / "pid").write_text(str(os.getpid()))
                time.sleep(600)
                os._exit(0)
            while pid_of(folder) is None:
                time.sleep(0.01)
        return 0
    if pid:
        os.kill(pid, signal.SIGKILL)
        while pid_of(folder) is not None:
            time.sleep(0.01)
    return 0


if __name__ == "__main__":
    sys.exit(main())
