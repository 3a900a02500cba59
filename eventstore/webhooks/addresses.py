"""Where requests on behalf of others may go: public addresses, and those that the operator allows.

A name is resolved here, each of its addresses is checked, and who connects connects to what was
checked: nobody asks the name a second time, so it cannot answer differently (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import urlsplit

#: The addresses of a host, as text.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Ports of public hosts. Others (mail, databases) do not speak HTTPS, and asking them what they say
#: to it would be a scan.
PUBLIC_PORTS = (443, 8443)
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PATIENCE_S = 5.0

# IANA's special-purpose registries, and an address at which a cloud tells a machine its keys; the
# others of that kind (169.254.169.254, fd00:ec2::254, 100.100.100.200, 192.0.0.192) are in ranges.
_REFUSED_4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network's own"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier's customers"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's own"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.31.196.0/24", "reserved"),
    ("192.52.193.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
# Of IPv6 only what is given out for the internet is allowed at all, and of that not these.
_GLOBAL_6 = IPv6Network("2000::/3")
_REFUSED_6: tuple[tuple[str, str], ...] = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4 in IPv6"),
    ("64:ff9b::/96", "IPv4 by NAT64"),
    ("64:ff9b:1::/48", "IPv4 by NAT64"),
    ("2001::/23", "reserved or tunnelled"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "IPv4 in IPv6"),
    ("2620:4f:8000::/48", "reserved"),
    ("3fff::/20", "for documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_NETWORKS: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind) for network, kind in _REFUSED_4 + _REFUSED_6
)


class AddressRefused(Exception):
    """Nothing is sent there. ``code`` says by which rule, ``context`` what it looked at.

    Both are for whoever named the host, who is not to learn of our network by it: not the address
    that a name led to, nor of which kind it is, nor whether there is any.
    """

    def __init__(self, code: str, told: str, **context: str | int) -> None:
        self.code, self.context = code, context
        super().__init__(told)


def networks(words: str) -> tuple[Network, ...]:
    """Networks (CIDR) with commas or spaces between them.

    Raises:
        ValueError: one is none, or has bits set behind its prefix.
    """
    return tuple(ip_network(word) for word in words.replace(",", " ").split())


def port_of(url: str) -> int:
    """The port of an address, said or usual."""
    parts = urlsplit(url)
    return parts.port or _DEFAULT_PORTS[parts.scheme]


def kind_of(address: Address) -> str | None:
    """Why a request must not go to an address; None: it is public."""
    for network, kind in _NETWORKS:
        if address.version == network.version and address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_6:
        return "reserved"
    return None


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


class Addresses:
    """Says which addresses of a host requests may go to.

    Args:
        allowed: networks that are allowed though they are not public; there plain http and any
            port are allowed too.
        resolve: finds the addresses of a host.
    """

    def __init__(self, allowed: Sequence[Network] = (), resolve: Resolve = resolve) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolve

    async def of(self, url: str) -> list[str]:
        """The addresses to connect to for a URL, all of them checked.

        Raises:
            AddressRefused: none was found, or one of them is not allowed, or is not with this
                scheme or port.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", port_of(url)
        found = await self._found(host, port)
        addresses = [ip_address(one) for one in found]
        kinds = [None if self._is_allowed(one) else kind_of(one) for one in addresses]
        for kind in kinds:
            if kind is not None:
                told = f"{host} has an address that is {kind}"
                raise AddressRefused("address_not_allowed", told, host=host)
        if not all(self._is_allowed(one) for one in addresses):
            if parts.scheme != "https":
                raise AddressRefused("https_needed", "a public host is called by https", host=host)
            if port not in PUBLIC_PORTS:
                known = " or ".join(map(str, PUBLIC_PORTS))
                raise AddressRefused(
                    "port_not_allowed", f"a public host is called on {known}", host=host, port=port
                )
        return found

    def _is_allowed(self, address: Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self._allowed
        )

    async def _found(self, host: str, port: int) -> list[str]:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                found = list(await self._resolve(host, port))
        except (OSError, UnicodeError, TimeoutError) as error:
            raise _without_address(host) from error
        if not found:
            raise _without_address(host)
        return found


def _without_address(host: str) -> AddressRefused:
    # By its code as one that is not allowed: which names there are inside is nobody's business.
    return AddressRefused("address_not_allowed", f"{host} has no address", host=host)
