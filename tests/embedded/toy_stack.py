"""A stack of toy children under the real supervisor: a program for ``test_supervisor.py``.

``python -m tests.embedded.toy_stack <folder> <children as JSON: {name: python code}>``; the children
``redis`` and ``bootstrap`` take the parts of those two.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from controlplane.embedded.children import Child, Plan
from controlplane.embedded.output import Terminal
from controlplane.embedded.supervisor import Supervisor
from controlplane.kernel.errors import ZantaraError


def main() -> None:
    folder, children = Path(sys.argv[1]), json.loads(sys.argv[2])
    plan = Plan(folder, 1, None, None, Path("/unused"), folder / "redis.sock", "", None, {})
    for path in (plan.marks_dir, plan.logs_dir):
        path.mkdir(parents=True, exist_ok=True)

    def child(name: str) -> Child:
        return Child(
            name=name,
            argv=(sys.executable, "-u", "-c", children[name]),
            environ={"PATH": os.environ["PATH"], "TOY_STACK": str(folder)},
            ready=(folder / f"{name}.ready").exists if f"{name}.ready" in children[name] else None,
            cwd=folder,
            announces="secret:",
        )

    supervisor = Supervisor(
        plan,
        terminal := Terminal(1, colour=False),
        redis=child("redis") if "redis" in children else None,
        bootstrap=child("bootstrap"),
        services=[child(name) for name in children if name not in ("redis", "bootstrap")],
    )
    try:
        supervisor.run(on_ready=lambda: terminal.line("ready"), check_redis=lambda: True)
    except ZantaraError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
