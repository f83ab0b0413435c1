"""Free ports for servers of tests."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator

#: Below what the kernel gives to outgoing connections (from 32768), which may take a port between the look at it and
#: the server's start, and apart from what instances of services get (20000-29999).
_FIRST, _LAST = 10_000, 19_999
#: So many workers of pytest-xdist have ports of their own; the last share is for a run without them.
_SHARES = 16


def _own_ports() -> Iterator[int]:
    """The ports of this worker's share, again and again, in an order that another run's worker does not have."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    share = int(worker.removeprefix("gw")) % (_SHARES - 1) if worker else _SHARES - 1
    size = (_LAST + 1 - _FIRST) // _SHARES
    ports = [_FIRST + share * size + number for number in range(size)]
    random.Random(os.getpid()).shuffle(ports)
    while True:
        yield from ports


_ports = _own_ports()


def find_free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that is given to nobody else for long."""
    for _ in range(_LAST - _FIRST):
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return port
    raise RuntimeError("every port of the tests is taken")
