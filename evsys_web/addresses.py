"""Which addresses a user may have this server call. Without a check, an endpoint is a way into the network the server stands in.

Public addresses are allowed. This machine itself is, while nobody else can reach the server (it listens on loopback, for
loopback names, with no proxy in front): whoever uses it sits at it. EVSYS_ALLOW_PRIVATE_URLS=1 allows all.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from django.conf import settings

from recipes.errors import ConfigError
from recipes.outbound import may_be_asked


def allows_address(text: str) -> bool:
    """Whether a connection to this IP address may be opened. Asked for each, at the moment of connecting."""
    return may_be_asked(text, **allowed_kinds())


def allowed_kinds() -> dict[str, bool]:
    """Of addresses that are not public: as `may_be_asked` takes them."""
    return {"private": settings.ALLOW_PRIVATE_URLS, "loopback": _is_alone()}


def refuse_private(url: str, *, path: tuple[str | int, ...]) -> None:
    """Raises ConfigError for a URL whose host is an address that may not be called. Names are judged when they are looked up."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if not allows_address(host):
        raise ConfigError(
            f"{host} is an address inside a private network, which may not be called from here. Whoever runs this server can "
            "allow it with EVSYS_ALLOW_PRIVATE_URLS=1.",
            path=path,
        )


def refuse_private_host(url: str, *, path: tuple[str | int, ...]) -> None:
    """The same with the name looked up, for a client that opens its connections by itself. Raises ConfigError for a name that
    leads to an address that may not be called. One that cannot be looked up is left to the client, which will say so."""
    refuse_private(url, path=path)
    host = urlsplit(url).hostname or ""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return
    for address in sorted(found):
        if not allows_address(address):
            raise ConfigError(
                f"{host} leads to {address}, an address inside a private network, which may not be called from here. Whoever "
                "runs this server can allow it with EVSYS_ALLOW_PRIVATE_URLS=1.",
                path=path,
            )


def _is_alone() -> bool:
    names = [settings.HOST, *settings.ALLOWED_HOSTS]
    return not settings.HTTPS and all(is_loopback(name) for name in names)


def is_loopback(name: str) -> bool:
    """Of an address or host name: does it stay on this machine?"""
    name = name.strip("[]").lower()
    if name in {"localhost", "testserver"} or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
