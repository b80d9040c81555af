"""Find the address from which a request comes: that of the connection, or one that a trusted proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from powerflow.errors import InputError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Most entries that are read; nobody has so many proxies.
_MOST_HOPS = 32


def trusted_proxies(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse the networks of trusted proxies from texts with addresses and CIDR blocks.

    Raises:
        InputError: A text is neither an address nor a CIDR block.
    """
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            fix = "give an address such as 10.0.0.7 or 10.0.0.0/24"
            raise InputError(f"{text!r} is not an address", where="--trusted-proxy", fix=fix) from None
    return tuple(found)


def origin(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address that a request comes from, as the log and the audit show it.

    Each proxy appends to ``X-Forwarded-For`` the address that it got the request from. But a client can write any
    header. So the header is read from its end, and only while the sender of an entry is a trusted proxy.

    Args:
        peer: Address of the connection.
        forwarded: Values of the ``X-Forwarded-For`` headers, in the order in which they were sent.
        trusted: Networks of trusted proxies, from `trusted_proxies`.

    Returns:
        The connection's address; or ``CLIENT through PEER`` if the connection is from a trusted proxy.
    """
    if not forwarded or not _among(peer, trusted):
        return peer
    client = ""
    for hop in reversed(",".join(forwarded).split(",")[-_MOST_HOPS:]):
        address = _address(hop)
        if address is None:
            break
        client = str(address)
        if not _among(client, trusted):
            break
    return f"{client} through {peer}" if client else peer


def _among(text: str, networks: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse a network address with or without a port; return None if the text is not an address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
