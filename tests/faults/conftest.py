"""What the fault tests share: a Docker engine of their own."""

from __future__ import annotations

from tests.docker_engine import docker_engine

__all__ = ["docker_engine"]
