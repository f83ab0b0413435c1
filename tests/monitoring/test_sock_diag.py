from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest

from controlplane.monitoring import sock_diag
from controlplane.monitoring.sockets import ServiceSockets


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_established_sockets_of_both_families_are_counted_by_their_local_port(
    family: socket.AddressFamily, address: str
) -> None:
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip("left out: this machine has no IPv6 loopback")
        server.listen(20)
        port = server.getsockname()[1]
        assert sock_diag.established(frozenset({port})) == 0  # a listening socket is no connection
        clients = [socket.create_connection((address, port)) for _ in range(5)]
        accepted = [server.accept()[0] for _ in clients]
        assert sock_diag.established(frozenset({port})) == 5
        assert sock_diag.established(frozenset({clients[0].getsockname()[1]})) == 1
        for one in [*clients, *accepted]:
            one.close()
        assert sock_diag.established(frozenset({port})) == 0


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_listening_sockets_of_both_families_are_known_by_inode_and_connections_are_not_among_them(
    family: socket.AddressFamily, address: str
) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        inode, port = os.fstat(server.fileno()).st_ino, server.getsockname()[1]
        with socket.create_connection((address, port)) as client, server.accept()[0] as accepted:
            listening = sock_diag.listening()
            assert listening[inode] == port
            assert {os.fstat(one.fileno()).st_ino for one in (client, accepted)} & set(listening) == set()
    assert inode not in sock_diag.listening()


def test_the_table_of_all_sockets_is_not_read_where_the_kernel_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a flood it lists tens of thousands of closed connections: reading it kept every thread waiting."""
    read: list[str] = []
    monkeypatch.setattr(ServiceSockets, "_net", lambda self, name: read.append(name) or b"")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        sockets = ServiceSockets()
        before = sockets.established()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert sockets.established() == before + 1
    assert set(read) == {"unix"}


def test_a_socket_that_listens_only_later_is_found_with_the_next_question() -> None:
    sockets = ServiceSockets()
    sockets._own = lambda: (frozenset(), frozenset())  # type: ignore[method-assign]
    assert sockets.established() == 0
    del sockets._own
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert sockets.established() >= 1


def test_where_netlink_is_forbidden_the_proc_files_say_the_same(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    def forbidden(ports: frozenset[int]) -> int:
        asked.append(ports)
        raise PermissionError

    def forbidden_too() -> dict[int, int]:
        raise PermissionError

    asked: list[frozenset[int]] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        settings.ZANTARA_SERVICE_PORT = port  # this process may listen on others for other tests
        sockets = ServiceSockets()
        before = sockets.established()
        monkeypatch.setattr(sock_diag, "established", forbidden)
        monkeypatch.setattr(sock_diag, "listening", forbidden_too)
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert sockets.established() == before + 1
            assert sockets.established() == before + 1
    assert asked.count(frozenset({port})) == 1  # once refused, never asked again, whoever else asks


def test_asking_is_cheap_enough_for_four_times_a_second() -> None:
    """2 % of a core would be 5 ms a time; it is about a tenth of a millisecond on an idle machine."""
    cheapest = 1.0
    for _ in range(20):
        began = time.thread_time()
        sock_diag.established(frozenset({1}))
        cheapest = min(cheapest, time.thread_time() - began)
    assert cheapest < 0.005
