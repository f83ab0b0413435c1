"""The children of the one-machine stack: what each runs, with which environment, and when it is ready."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from controlplane.kernel.env import Env
from controlplane.kernel.local_secrets import secret_file
from deployments.edge import current_edge, envoy_program
from deployments.edge.envoy import BOOTSTRAP

from . import readiness
from .celery_ready import VARIABLE as READY_FILE

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
DRILL_IDENTITY = "ZANTARA_DRILL_IDENTITY_FILE"
#: Variables that a child has only if it is given them here.
OWN_TO_SOME = frozenset({"DJANGO_SETTINGS_MODULE", "PROMETHEUS_MULTIPROC_DIR", DRILL_IDENTITY})
#: The service that is deployed first (deployments.seed): its instances count in one folder.
SERVICE = "zantara"
#: The service whose processes are web, workers and beat: they share one folder of metrics.
CONTROL_PLANE = "controlplane"
#: The chroma server greets with a drawing and an advertisement; neither helps on an operator's terminal.
CHROMA_NOISE = re.compile(r"[\s(#]*|.*(Getting started guide|Chroma Cloud|Sign up: |Copy your data to Cloud).*")


@dataclass(frozen=True)
class Plan:
    """One stack: where its data is and which ports it takes. None: this stack runs no such child."""

    data_dir: Path
    web_port: int
    edge_port: int | None
    chroma_port: int | None
    redis_server: Path | None
    redis_socket: Path
    redis_url: str
    chroma_url: str | None
    environ: Mapping[str, str] = field(repr=False)

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def marks_dir(self) -> Path:
        return self.run_dir / "children"

    @property
    def held_dir(self) -> Path:
        """A file in it, named like a service, keeps that service stopped."""
        return self.run_dir / "held"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"


@dataclass(frozen=True)
class Child:
    """What the supervisor needs to know of one child.

    ``wipe`` is a folder that must be empty, ``ready_file`` a file that must be absent, when it starts.
    ``cold_signal`` is sent after some seconds to a child that is still busy, so that it gives its work back.
    ``announces`` begins a line that belongs to the operator alone: to the terminal as it is, to no log.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    ready: Callable[[], bool] | None = None
    cwd: Path = ROOT
    wipe: Path | None = None
    ready_file: Path | None = None
    cold_signal: int | None = None
    noise: re.Pattern[str] | None = field(default=None, repr=False)
    announces: str | None = None


def base_environ(plan: Plan) -> dict[str, str]:
    """What every child gets: the caller's environment, and where this stack's things are."""
    environ = {name: value for name, value in plan.environ.items() if name not in OWN_TO_SOME}
    environ |= {
        "ZANTARA_DATA_DIR": str(plan.data_dir),
        "ZANTARA_REDIS_URL": plan.redis_url,
        "ZANTARA_WEB_PORT": str(plan.web_port),
        "PYTHONUNBUFFERED": "1",
    }
    if plan.edge_port is not None:
        environ["ZANTARA_EDGE_PORT"] = str(plan.edge_port)
    if plan.chroma_url is not None:
        environ["ZANTARA_CHROMA_URL"] = plan.chroma_url
    own = Env(environ)
    for name in ("jwt_secret", "limits_secret"):
        variable = f"ZANTARA_{name.upper()}"
        path = secret_file(name, own)
        if not own.text(variable) and not own.text(f"{variable}_FILE") and path.exists():
            environ[f"{variable}_FILE"] = str(path)
    return environ


def redis_child(plan: Plan, server: Path) -> Child:
    """Redis on a socket for this user alone; every write survives a restart, so that limits do."""
    folder = plan.data_dir / "redis"
    return Child(
        name="redis",
        argv=(
            str(server), "--port", "0", "--unixsocket", str(plan.redis_socket), "--unixsocketperm", "700",
            "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--daemonize", "no",
        ),
        environ=base_environ(plan),
        ready=readiness.redis_pong(plan.redis_url),
        cwd=folder,
    )  # fmt: skip


def bootstrap_child(plan: Plan) -> Child:
    """Runs once, before the services: migrations, profiles, groups, schedules, backups, the first superuser."""
    return Child(
        name="bootstrap",
        argv=(sys.executable, str(ROOT / "manage.py"), "bootstrap", "--first-backup"),
        environ=_control_plane(plan),
        # Here and not when one of them starts: what the others have counted must outlive its restart.
        wipe=_metrics_dir(plan, CONTROL_PLANE),
        announces="admin password:",
    )


def service_children(plan: Plan) -> list[Child]:
    """Everything that starts once Redis answers and the database is ready."""
    children = [
        Child(
            name="web",
            argv=_granian("controlplane.wsgi:application", plan.web_port),
            environ=_control_plane(plan),
            ready=readiness.http_ok(plan.web_port, "/readyz"),
        ),
        _worker(plan, "engine"),
        _worker(plan, "work"),
        _proof_worker(plan),
        Child(
            name="beat",
            argv=_celery("beat", "--pidfile="),
            environ=_control_plane(plan),
        ),
    ]
    if plan.chroma_port is not None:
        children.append(_chroma(plan, plan.chroma_port))
    if plan.edge_port is not None and (edge := edge_child(plan)) is not None:
        children.append(edge)
    return children


def edge_child(plan: Plan) -> Child | None:
    """Envoy, told by the files of the edge's directory; None where no Envoy is installed.

    It has no port before the control plane gives it one. Without hot restarts it needs no shared memory; two threads
    are enough for one machine.
    """
    program = envoy_program()
    if program is None:
        return None
    edge = current_edge(base_environ(plan))
    edge.prepare()
    return Child(
        name="edge",
        argv=(
            str(program), "--config-path", str(edge.settings.folder / BOOTSTRAP), "--concurrency", "2",
            "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "10",
        ),
        environ={"PATH": plan.environ.get("PATH", "")},
        ready=edge.admin.is_ready,
        cwd=edge.settings.folder,
    )  # fmt: skip


def _worker(plan: Plan, queue: str) -> Child:
    name = f"worker-{queue}"
    ready_file = plan.run_dir / "ready" / name
    return Child(
        name=name,
        argv=_celery(
            "worker", "-Q", queue, "-c", "2", "-n", f"{queue}@%h", "--without-gossip", "--without-mingle",
            "--include", "controlplane.embedded.celery_ready",
        ),
        environ=_control_plane(plan) | {READY_FILE: str(ready_file)},
        ready=readiness.file_exists(ready_file),
        ready_file=ready_file,
        cold_signal=signal.SIGQUIT,
    )  # fmt: skip


def _proof_worker(plan: Plan) -> Child:
    """Proofs and restores. It alone is told where the drill identity is: nothing else here can read a backup."""
    child = _worker(plan, "proof")
    default = str(secret_file("drill_identity.txt", Env(child.environ)))
    return replace(child, environ={**child.environ, DRILL_IDENTITY: plan.environ.get(DRILL_IDENTITY) or default})


def _chroma(plan: Plan, port: int) -> Child:
    return Child(
        name="chroma",
        argv=(
            sys.executable, "-c", "from chromadb.cli.cli import app; app()",
            "run", "--path", str(plan.data_dir / "chroma"), "--host", HOST, "--port", str(port),
        ),
        environ=base_environ(plan) | {"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1"},
        cwd=plan.data_dir / "chroma",
        ready=readiness.http_ok(port, "/api/v2/heartbeat"),
        noise=CHROMA_NOISE,
    )  # fmt: skip


def _control_plane(plan: Plan) -> dict[str, str]:
    """Web, workers and beat count in one folder: what tasks do is read from the web's ``/metrics``."""
    return base_environ(plan) | {
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "PROMETHEUS_MULTIPROC_DIR": str(_metrics_dir(plan, CONTROL_PLANE)),
    }


def _metrics_dir(plan: Plan, name: str) -> Path:
    return plan.run_dir / "metrics" / name


def _celery(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", "controlplane.celery", "--quiet", *arguments)


def _granian(target: str, port: int) -> tuple[str, ...]:
    """Two processes with eight threads each: beyond that the threads queue for the interpreter, not for work."""
    return (
        sys.executable, "-m", "granian", "--interface", "wsgi", "--host", HOST, "--port", str(port),
        "--workers", "2", "--blocking-threads", "8", "--respawn-failed-workers", "--workers-kill-timeout", "5",
        "--no-ws", "--http", "1", target,
    )  # fmt: skip
