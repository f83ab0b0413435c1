"""The client's address: pure functions, tables of spoofed headers, and properties over any text."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.identity.addresses import (
    INVALID,
    MOST_HOPS,
    Client,
    bucket,
    parse_address,
    parse_networks,
    resolve_client,
)

PROXIES = parse_networks(["127.0.0.0/8", "::1", "10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("  203.0.113.9\t", "203.0.113.9"),
        ("1.2.3.4:5566", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304", "1.2.3.4"),
        ("[::ffff:1.2.3.4]:443", "1.2.3.4"),
        ("64:ff9b::1.2.3.4", "1.2.3.4"),
        ("64:ff9b::102:304", "1.2.3.4"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("[2001:db8::1]:80", "2001:db8::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::1%25eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_address_is_read_in_all_the_notations_that_servers_and_proxies_write(text: str, expected: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert bucket(address) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "unknown", "_hidden", "unix:", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:", "1.2.3.4:123456",
     "999.1.1.1", "0.0.0.0", "::", "[1.2.3.4]:80", "[::1", "::1]", "[[::1]]", "for=1.2.3.4", "1.2.3.4 5.6.7.8",
     "１.2.3.4", "\x00", "1.2.3.4\r\n", "1.2.3.4%eth0", "http://1.2.3.4", "a" * 100_000],
)  # fmt: skip
def test_what_is_no_address_is_none_and_its_callers_share_one_bucket(text: str) -> None:
    assert parse_address(text) is None
    assert resolve_client(text, "", trusted=()) == Client(INVALID, None, False)


def test_a_translated_loopback_address_is_not_this_machine() -> None:
    client = resolve_client("64:ff9b::7f00:1", "", trusted=())
    assert (client.address, client.is_loopback) == ("64:ff9b::/64", False)


def test_the_ipv6_prefix_is_a_setting() -> None:
    address = ip_address("2001:db8:1:2:3:4:5:6")
    assert bucket(address, ipv6_prefix=48) == "2001:db8:1::/48"
    assert bucket(address, ipv6_prefix=128) == "2001:db8:1:2:3:4:5:6"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address", "via"),
    [
        # nobody is trusted who is not listed: the header is the client's own invention
        ("203.0.113.9", "198.51.100.1", "203.0.113.9", ()),
        ("203.0.113.9", "127.0.0.1", "203.0.113.9", ()),
        ("203.0.113.9", "10.0.0.1, 10.0.0.2", "203.0.113.9", ()),
        ("203.0.113.9", "rubbish", "203.0.113.9", ()),
        # one proxy: its word counts, what stands left of it does not
        ("10.0.0.1", "203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("10.0.0.1", "127.0.0.1, 203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("10.0.0.1", "10.0.0.7, 203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("10.0.0.1", "rubbish, 203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9", ("10.0.0.1",)),
        ("10.0.0.1:40000", "203.0.113.9:5566", "203.0.113.9", ("10.0.0.1",)),
        ("fd00::1", "2001:db8::9", "2001:db8::/64", ("fd00::1",)),
        # two proxies
        ("127.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9", ("127.0.0.1", "10.0.0.2")),
        ("127.0.0.1", "198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9", ("127.0.0.1", "10.0.0.2")),
        # trusted all the way: the farthest is the client
        ("127.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", ("127.0.0.1", "10.0.0.2")),
        # a trusted proxy that says nothing speaks for itself
        ("10.0.0.1", "", "10.0.0.1", ()),
        ("10.0.0.1", "  ", "10.0.0.1", ()),
        # an unreadable hop ends the walk: what stands left of it is not believed instead
        ("10.0.0.1", "203.0.113.9, unknown", INVALID, ("10.0.0.1",)),
        ("10.0.0.1", "203.0.113.9, ", INVALID, ("10.0.0.1",)),
        ("10.0.0.1", "203.0.113.9, unix:", INVALID, ("10.0.0.1",)),
        ("10.0.0.1", "203.0.113.9, bogus, 10.0.0.2", INVALID, ("10.0.0.1", "10.0.0.2")),
        ("10.0.0.1", "for=203.0.113.9", INVALID, ("10.0.0.1",)),
    ],
)
def test_forwarded_for_is_walked_from_the_right_over_trusted_proxies_only(
    peer: str, forwarded_for: str, address: str, via: tuple[str, ...]
) -> None:
    client = resolve_client(peer, forwarded_for, trusted=PROXIES)
    assert (client.address, client.via, client.is_loopback) == (address, via, False)


def test_only_the_last_hops_of_a_long_header_are_looked_at() -> None:
    hops = ", ".join(["198.51.100.1"] + ["10.0.0.9"] * MOST_HOPS)
    client = resolve_client("10.0.0.1", hops, trusted=PROXIES)
    assert client.address == "10.0.0.9"
    assert len(client.via) == MOST_HOPS
    assert resolve_client("10.0.0.1", "a," * 100_000 + "203.0.113.9", trusted=PROXIES).address == "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proxied", "expected"),
    [
        ("127.0.0.1", "", False, True),
        ("::1", "", False, True),
        ("::ffff:127.0.0.1", "", False, True),
        ("127.0.0.1", "127.0.0.1", False, True),
        ("127.0.0.1", "203.0.113.9", False, False),
        ("127.0.0.1", "127.0.0.1, 203.0.113.9", False, False),
        # what a proxy on another machine calls loopback is that machine
        ("10.0.0.1", "127.0.0.1", False, False),
        ("127.0.0.1", "127.0.0.1, 10.0.0.2", False, False),
        # a proxy that forgets X-Forwarded-For but leaves other signs
        ("127.0.0.1", "", True, False),
        ("203.0.113.9", "127.0.0.1", False, False),
    ],
)
def test_loopback_is_asked_of_the_client_and_not_of_the_proxy(
    peer: str, forwarded_for: str, proxied: bool, expected: bool
) -> None:
    assert resolve_client(peer, forwarded_for, trusted=PROXIES, proxied=proxied).is_loopback is expected


@pytest.mark.parametrize("forwarded_for", ["203.0.113.9", "127.0.0.1", "nonsense"])
def test_a_proxy_on_this_machine_that_nobody_configured_makes_no_caller_local(forwarded_for: str) -> None:
    client = resolve_client("127.0.0.1", forwarded_for, trusted=())
    assert client == Client("127.0.0.1", ip_address("127.0.0.1"), False)


def test_a_unix_socket_is_believed_only_where_it_is_trusted() -> None:
    assert resolve_client("", "203.0.113.9", trusted=PROXIES) == Client(INVALID, None, False)
    believed = resolve_client("", "203.0.113.9", trusted=(), peer_is_local_socket=True)
    assert (believed.address, believed.via, believed.is_loopback) == ("203.0.113.9", ("unix",), False)
    assert resolve_client("", "127.0.0.1", trusted=(), peer_is_local_socket=True).is_loopback is True
    assert resolve_client("", "", trusted=(), peer_is_local_socket=True) == Client(INVALID, None, False)
    assert resolve_client("junk", "203.0.113.9", trusted=(), peer_is_local_socket=True) == Client(INVALID, None, False)


def test_trusted_networks_forgive_host_bits_and_mapped_notation_and_refuse_words() -> None:
    assert parse_networks([" 10.1.2.3/8 ", "unix", "::ffff:10.0.0.0/104"]) == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("10.0.0.0/8"),
    )
    with pytest.raises(ValueError, match="'localhost' is neither an address"):
        parse_networks(["localhost"])


HEADERS = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.one_of(st.ip_addresses().map(str), st.sampled_from(["", "unknown", "::1", "127.0.0.1", "10.0.0.1"])),
        max_size=40,
    ).map(",".join),
)


@given(peer=st.one_of(st.text(max_size=120), st.ip_addresses().map(str)), header=HEADERS, local=st.booleans())
def test_no_text_raises_and_the_bucket_is_an_address_a_network_or_the_one_for_nonsense(
    peer: str, header: str, local: bool
) -> None:
    client = resolve_client(peer, header, trusted=PROXIES, peer_is_local_socket=local)
    assert (client.ip is None) == (client.address == INVALID)
    assert client.ip is None or client.address == bucket(client.ip)
    assert len(client.address) <= 49
    assert len(client.via) <= MOST_HOPS
    assert not client.is_loopback or (client.ip is not None and client.ip.is_loopback)


@given(header=HEADERS)
def test_without_trust_no_header_moves_the_client(header: str) -> None:
    assert resolve_client("203.0.113.9", header, trusted=()).address == "203.0.113.9"


@given(forged=HEADERS, client=st.ip_addresses(v=4).filter(lambda ip: str(ip) != "0.0.0.0"))
def test_what_a_client_writes_left_of_the_proxys_entry_changes_nothing(forged: str, client: object) -> None:
    if any(client in network for network in PROXIES if network.version == 4):
        return
    honest = resolve_client("10.0.0.1", str(client), trusted=PROXIES)
    assert resolve_client("10.0.0.1", f"{forged}, {client}", trusted=PROXIES) == honest


@given(address=st.ip_addresses(v=4).filter(lambda ip: str(ip) != "0.0.0.0"))
def test_an_ipv4_caller_has_one_bucket_in_every_notation(address: object) -> None:
    number = int(address)  # type: ignore[call-overload]
    notations = [
        str(address),
        f"::ffff:{address}",
        f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}",
        f"[::ffff:{address}]:1",
    ]
    assert {resolve_client(text, "", trusted=()).address for text in notations} == {str(address)}
