"""Which addresses a webhook may lead to: those of the public internet, unless others are allowed."""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import httpx
from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 6052: an IPv4 address in the last 32 bits, which a gateway of the network unpacks.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotAllowed(Exception):
    """Nothing may be sent there; the message says why."""


def check(url: str) -> None:
    """Refuses what can be seen to be wrong before the name is looked up.

    Raises:
        NotAllowed: it has no host, a user or a password, no encryption, or a private address.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018  # reading it checks it
        httpx.URL(url).host.encode("idna")
    except (
        ValueError,
        httpx.InvalidURL,
    ) as error:  # a label that is empty, too long or not IDNA too
        raise NotAllowed(f"{url} is no address: {error}") from error
    if parts.scheme not in {"https", "http"} or not host:
        raise NotAllowed(f"{url} is no address such as https://hooks.example.org/fleet")
    if parts.username is not None or parts.password is not None:
        raise NotAllowed("An address with a user or a password is not taken; check the signature.")
    if parts.scheme == "http" and not settings.WEBHOOK_ALLOW_PRIVATE:
        raise NotAllowed("Only https:// is taken: what is sent must not be read on the way.")
    if _is_address(host) and not is_allowed(host):
        raise NotAllowed(f"{host} is not an address of the public internet.")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host to connect to, each looked at, so that the name is not looked up again.

    Raises:
        NotAllowed: none of them is public.
        OSError: the name is not known.
    """
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = list(dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows))
    allowed = [address for address in found if is_allowed(address)]
    if not allowed:
        raise NotAllowed(f"{host} has no public address ({', '.join(found)})")
    return allowed


def is_allowed(address: str) -> bool:
    return settings.WEBHOOK_ALLOW_PRIVATE or is_public(ipaddress.ip_address(address))


def is_public(address: Address) -> bool:
    """Whether it, or the IPv4 address that it stands for, is one of the public internet."""
    if inner := _stands_for(address):
        return is_public(inner)
    is_special = address.is_multicast or address.is_reserved
    return address.is_global and not is_special and not getattr(address, "is_site_local", False)


def _stands_for(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
