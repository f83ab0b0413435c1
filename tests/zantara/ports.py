"""A free port for servers that outlive one test (the fixture ``free_port`` belongs to one)."""

from __future__ import annotations

import socket


def free_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
