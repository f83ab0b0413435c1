"""How many connections a service has: the established sockets on its own port, or on its UNIX socket.

Asked of Linux by netlink, or read from ``/proc/net`` where that is forbidden; elsewhere the answer is 0, and what
would be refused for too many connections is let through.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

from django.conf import settings

from . import sock_diag

PROC = Path("/proc")
#: How many questions are answered before the process's own listening sockets are looked for again.
LOOK_AGAIN_AFTER = 40
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A (?:\S+ +){5}(\d+)", re.MULTILINE)
_UNIX_LISTENING, _UNIX_CONNECTED = b"00010000", b"03"


class ServiceSockets:
    """The addresses of one service, found once it listens and then again every ten seconds or so.

    ``ZANTARA_SERVICE_PORT`` names the port where a process cannot see it, for example behind a server that
    keeps the listening socket in another process.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._asked = 0
        self._ports: frozenset[int] = frozenset()
        self._paths: frozenset[bytes] = frozenset()
        self._pattern: re.Pattern[bytes] | None = None
        self._by_netlink = proc == PROC and hasattr(socket, "AF_NETLINK")

    def established(self) -> int:
        begins = self._asked < LOOK_AGAIN_AFTER and not (self._ports or self._paths)
        if begins or self._asked % LOOK_AGAIN_AFTER == 0:
            self._find()
        self._asked += 1
        count = self._established_tcp() if self._ports else 0
        if self._paths:
            count += sum(
                1
                for fields in map(bytes.split, self._net("unix").splitlines())
                if len(fields) == 8 and fields[5] == _UNIX_CONNECTED and fields[7] in self._paths
            )
        return count

    def _established_tcp(self) -> int:
        if self._by_netlink:
            try:
                return sock_diag.established(self._ports)
            except OSError:
                self._by_netlink = False  # a sandbox without netlink, or a kernel without the module
        pattern = self._pattern
        if pattern is None:
            return 0
        return sum(len(pattern.findall(text)) for text in (self._net("tcp"), self._net("tcp6")))

    def _net(self, name: str) -> bytes:
        try:
            return (self._proc / "net" / name).read_bytes()
        except OSError:
            return b""

    def _find(self) -> None:
        configured = getattr(settings, "ZANTARA_SERVICE_PORT", None)
        if configured:
            self._ports, self._paths = frozenset({int(configured)}), frozenset()
        else:
            self._ports, self._paths = self._own()
        # local address, remote address, state 01 (established)
        choice = b"|".join(b"%04X" % port for port in sorted(self._ports))
        self._pattern = re.compile(rb": [0-9A-F]+:(?:%s) [0-9A-F]+:[0-9A-F]{4} 01 " % choice) if choice else None

    def _own(self) -> tuple[frozenset[int], frozenset[bytes]]:
        """Ports and socket paths on which this very process listens."""
        mine = self._inodes()
        ports = {port for inode, port in self._listening_tcp() if inode in mine}
        paths = {
            fields[7]
            for fields in map(bytes.split, self._net("unix").splitlines())
            if len(fields) == 8 and fields[3] == _UNIX_LISTENING and fields[6] in mine
        }
        return frozenset(ports), frozenset(paths)

    def _listening_tcp(self) -> list[tuple[bytes, int]]:
        if self._by_netlink:
            try:
                return [(b"%d" % inode, port) for inode, port in sock_diag.listening().items()]
            except OSError:
                self._by_netlink = False
        texts = (self._net("tcp"), self._net("tcp6"))
        return [(inode, int(port, 16)) for text in texts for port, inode in _LISTENING.findall(text)]

    def _inodes(self) -> set[bytes]:
        found = set()
        folder = self._proc / "self" / "fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208  (names only: a Path for each of 1000 sockets is slow)
                with contextlib.suppress(OSError):
                    target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
                    if target.startswith("socket:["):
                        found.add(target[8:-1].encode())
        return found
