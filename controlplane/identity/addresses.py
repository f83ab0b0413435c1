"""From which address does a request come? Pure functions of text; no text makes them raise.

A *peer* is who holds the connection. If the operator trusts the peer (a proxy of his), the peer's word is
taken for who called *it*, and so on from the right of X-Forwarded-For, until somebody who is not trusted:
that is the client. What stands further left was written by the client and means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: The one bucket of every caller whose address cannot be told.
INVALID = "invalid"
#: How a peer without an address (a UNIX socket) is called in settings and in ``Client.via``.
UNIX = "unix"
#: Proxies in a row that are looked at. Real chains have two or three; the header may hold thousands.
MOST_HOPS = 32
#: The longest text that can be an address: 39 characters, a zone, brackets and a port.
LONGEST_ADDRESS = 100

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1
_IPV4_WITH_PORT = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}")
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls, as far as addresses tell.

    ``address``      the bucket: an IPv4 address, an IPv6 network (``2001:db8::/64``), or ``invalid``
    ``ip``           the whole address; None where ``address`` is ``invalid``
    ``is_loopback``  the *client* is on this machine, not merely the proxy through which he came
    ``via``          the trusted hops whose word was taken, nearest first
    """

    address: str
    ip: Address | None
    is_loopback: bool
    via: tuple[str, ...] = ()


def parse_address(text: str) -> Address | None:
    """The address in ``1.2.3.4``, ``1.2.3.4:5566``, ``2001:db8::1``, ``[::1]:80`` or ``fe80::1%eth0``.

    IPv4 within IPv6 (IPv4-mapped in either notation, NAT64's well-known prefix) is unwrapped: a dual-stack
    listener must not put all IPv4 callers into one /64. None for anything that is no address, and for the
    unspecified ones, which nobody calls from.
    """
    text = text.strip(" \t")
    return None if not text or len(text) > LONGEST_ADDRESS else _parse(text)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address | None:
    bare = text
    if match := _BRACKETED.fullmatch(text) or _IPV4_WITH_PORT.fullmatch(text):
        bare = match[1]
    try:
        address = _unwrapped(ip_address(bare.partition("%")[0] if ":" in bare else bare))
    except ValueError:
        return None
    if address.is_unspecified or (text.startswith("[") and ":" not in bare):
        return None
    return address


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
        # A translator's address never means this machine, whatever it holds.
        return address if inner.is_loopback else inner
    return address


def bucket(address: Address, *, ipv6_prefix: int = 64) -> str:
    """The text under which an address is counted: IPv4 whole, IPv6 as its network.

    One subscriber has a whole /64 at least (RFC 6177), so single IPv6 addresses are no limit to anybody.
    """
    if isinstance(address, IPv4Address) or ipv6_prefix == 128:
        return str(address)
    return str(IPv6Network((int(address), ipv6_prefix), strict=False))


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks in a list of CIDRs or addresses; the word ``unix`` is passed over. ValueError for others.

    Host bits are forgiven (``10.1.2.3/8``), and an IPv4-mapped network becomes its IPv4 one, because that is
    how addresses are compared.
    """
    networks: list[Network] = []
    for text in texts:
        if text.strip() == UNIX:
            continue
        try:
            network = ip_network(text.strip(), strict=False)
        except ValueError:
            raise ValueError(
                f"{text!r} is neither an address, nor a network such as 10.0.0.0/8, nor {UNIX!r}"
            ) from None
        if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
            network = IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
        networks.append(network)
    return tuple(networks)


def resolve_client(
    peer: str,
    forwarded_for: str,
    *,
    trusted: Sequence[Network],
    ipv6_prefix: int = 64,
    peer_is_local_socket: bool = False,
    proxied: bool = False,
) -> Client:
    """The client behind ``peer``, who sent the X-Forwarded-For header ``forwarded_for``.

    ``peer_is_local_socket``: an empty ``peer`` is a UNIX socket whose other end is trusted. Without it a peer
    that has no address is nobody: bucket ``invalid``.
    ``proxied``: other signs of a proxy were seen (``Forwarded``, ``Via``, ``X-Real-IP``); they change nothing
    but that the peer is not taken for a caller on this machine.
    """
    via: list[str] = []
    hop = parse_address(peer)
    loopback_path = True
    if hop is not None:
        believed = _is_trusted(hop, trusted)
    elif peer_is_local_socket and not peer.strip():
        believed = True
    else:
        return Client(INVALID, None, False)
    spoken_for = False
    for text in _hops(forwarded_for) if believed else ():
        via.append(UNIX if hop is None else str(hop))
        # An address of loopback that a hop elsewhere reports is *its* loopback.
        loopback_path = loopback_path and (hop is None or hop.is_loopback)
        hop = parse_address(text)
        spoken_for = True
        if hop is None:
            return Client(INVALID, None, False, tuple(via))
        if not _is_trusted(hop, trusted):
            break
    if hop is None:
        return Client(INVALID, None, False, tuple(via))
    # A peer on this machine who forwards without being believed is a proxy that nobody configured.
    unconfigured = not spoken_for and (proxied or bool(forwarded_for.strip()))
    return Client(
        address=bucket(hop, ipv6_prefix=ipv6_prefix),
        ip=hop,
        is_loopback=hop.is_loopback and loopback_path and not unconfigured,
        via=tuple(via),
    )


def _hops(forwarded_for: str) -> list[str]:
    """The last hops of the header, nearest first; none if it is blank."""
    if not forwarded_for.strip(" \t"):
        return []
    return forwarded_for.rsplit(",", MOST_HOPS)[: -MOST_HOPS - 1 : -1]


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in trusted)
