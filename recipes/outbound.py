"""Connections to servers that a user named: only to addresses that may be asked, and for answers of bounded size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

MAX_ANSWER_BYTES = 64 * 2**20
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out to the world. Elsewhere lie former private networks and ways to one (::10.0.0.1, 64:ff9b:1::/48)."""
NOT_PUBLIC_IPV4 = ipaddress.IPv4Network("192.0.0.0/24")
"""Of protocols, and where a cloud tells a machine its own keys; Python takes some of it for public."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_refused: list[str] = []


class OutboundRefused(OSError):
    """What the server's name leads to, or what it sends, is not taken. The text goes on where "The server …" begins."""


class AddressRefused(OutboundRefused):
    """The server's name leads to an address that may not be asked."""


class AnswerRefused(OutboundRefused):
    """More than anybody has use for, or packed, so that nobody knows how much it is."""


def may_be_asked(text: str, *, private: bool, loopback: bool) -> bool:
    """Whether this IP address is a public one, or of the kinds that are allowed beside those: all, or this machine's own."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if private:
        return True
    address = _meant(address)
    if address.is_loopback:
        return loopback
    if address in NOT_PUBLIC_IPV4 or (address.version == 6 and address not in PUBLIC_IPV6):
        return False
    return address.is_global and not address.is_multicast


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def guard_this_process(allows_address: Callable[[str], bool]) -> list[str]:
    """For good, and for every library in this process, redirects included: no socket connects but to an address that may be
    asked. Gives the list in which refused addresses are noted, since a library may keep the AddressRefused to itself."""
    _refused.clear()

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            where = arguments[1]
            address = str(where[0]) if isinstance(where, tuple) else str(where)
            if not allows_address(address):
                _refused.append(address)
                raise AddressRefused(f"leads to {address}, an address that may not be asked from here.")

    sys.addaudithook(look)
    return _refused


def guarded_transport(allows_address: Callable[[str], bool], limits: Any, *, max_bytes: int = MAX_ANSWER_BYTES) -> Any:
    """A transport that looks the host up itself, asks about each address and connects to the one that was allowed, so that a name
    which changes its address between check and connection gains nothing. Redirects come through here too. An answer's body ends
    with AnswerRefused after `max_bytes` and with a ReadTimeout when all of it takes longer than one wait may."""
    import httpx2

    class GuardedTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            host = request.url.host
            port = request.url.port or (443 if request.url.scheme == "https" else 80)
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
            except OSError as error:
                raise httpx2.ConnectError(f"{host}: {error.strerror or error}", request=request) from error
            addresses = [str(entry[4][0]) for entry in found]
            if refused := [address for address in addresses if not allows_address(address)]:
                raise AddressRefused(f"leads to {refused[0]}, an address that may not be asked from here.")
            address = addresses[0].partition("%")[0]
            bracketed = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=bracketed)
            request.headers["Accept-Encoding"] = "identity"
            response = await super().handle_async_request(request)
            response.stream = BoundedStream(response, request)
            return response

    class BoundedStream(httpx2.AsyncByteStream):
        def __init__(self, response: httpx2.Response, request: httpx2.Request) -> None:
            self._stream: Any = response.stream
            self._encoding = response.headers.get("Content-Encoding", "identity")
            self._request = request
            self._seconds = request.extensions.get("timeout", {}).get("read")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            if self._encoding.strip().lower() != "identity":
                raise AnswerRefused(f"sends a packed answer ({self._encoding[:40]}), which was not asked for.")
            num_bytes, began = 0, asyncio.get_running_loop().time()
            async for part in self._stream:
                num_bytes += len(part)
                if num_bytes > max_bytes:
                    raise AnswerRefused(f"sends more than {max_bytes // 2**20} MiB as one answer.")
                if self._seconds is not None and asyncio.get_running_loop().time() - began > self._seconds:
                    raise httpx2.ReadTimeout("the answer comes too slowly", request=self._request)
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    return GuardedTransport(limits=limits)
