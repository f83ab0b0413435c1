"""The whole one-machine stack, from the environment to the last child's end: what ``manage.py up`` calls."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import instances, leftovers, preflight, readiness
from .children import HOST, Plan, bootstrap_child, redis_child, service_children
from .output import Terminal
from .supervisor import Supervisor

#: The pid of the process (make) without which the stack shall not run on.
PARENT_VARIABLE = "ZANTARA_STOP_WITH_PARENT"


def run_stack(environ: Mapping[str, str], terminal: Terminal) -> None:
    """Run the stack until it is told to stop. Raises a ZantaraError, with nothing left running, where it cannot."""
    starter = environ.get(PARENT_VARIABLE, "")
    environ = {name: value for name, value in environ.items() if name != PARENT_VARIABLE}
    plan = preflight.make_plan(environ)
    preflight.prepare_directories(plan)
    lock = preflight.Lock(plan.run_dir / "up.lock")
    try:
        lock.acquire()
        if cleaned := [*leftovers.clean_up(plan.marks_dir), *instances.stop_all(plan.data_dir)]:
            terminal.line(f"ended what an earlier run had left: {', '.join(cleaned)}")
        preflight.check_ports(plan)
        preflight.prepare_socket_directory(plan.redis_socket)
        supervisor = Supervisor(
            plan,
            terminal,
            redis=redis_child(plan, plan.redis_server) if plan.redis_server is not None else None,
            bootstrap=bootstrap_child(plan),
            services=service_children(plan),
            is_orphaned=lambda: starter.isdigit() and os.getppid() != int(starter),
            on_stopping=lambda: lock.say("stopping"),
            on_services_ended=lambda: instances.stop_all(plan.data_dir),
            serves=readiness.http_ok(plan.edge_port, "/readyz") if plan.edge_port is not None else lambda: True,
        )
        _say_addresses(plan, terminal)
        _write_chroma_url(plan)
        supervisor.run(
            on_ready=lambda: terminal.line(f"ready: http://{HOST}:{plan.web_port}/admin/ (Ctrl-C stops everything)"),
            check_redis=readiness.redis_pong(plan.redis_url),
        )
    finally:
        lock.release()


def _say_addresses(plan: Plan, terminal: Terminal) -> None:
    rows = [("admin", f"http://{HOST}:{plan.web_port}/admin/")]
    if plan.edge_port is not None:
        rows.append(("sample service", f"http://{HOST}:{plan.edge_port}/zantara.unified"))
    rows.append(("vector store", plan.chroma_url or "none (the Python package chromadb is not installed)"))
    rows.append(("data and logs", str(plan.data_dir)))
    for label, value in rows:
        terminal.line(f"{label:<15} {value}")


def _write_chroma_url(plan: Plan) -> None:
    """For commands that run beside the stack: they cannot know the port that was free."""
    path = plan.run_dir / "chroma.url"
    if plan.chroma_url is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(plan.chroma_url + "\n", encoding="ascii")
