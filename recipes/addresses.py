"""Addresses of servers, as settings hold them."""

from __future__ import annotations

from urllib.parse import urlsplit


def checked_address(value: str | None) -> str | None:
    """Without a slash at its end; None for an empty one. Raises ValueError with a sentence, for pydantic to place."""
    if value is None or not value.strip():
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in value):
        raise ValueError("an address that begins with http:// or https:// and names a host is needed")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("leave name, password, ? and # out of the address; give a credential")
    return value.rstrip("/")
