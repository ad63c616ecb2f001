"""How a webhook's message is signed, so that the receiver knows who sent it, when, and that nobody changed it.

The header `EvSys-Signature: t=<unix seconds>,v1=<hex>` holds HMAC-SHA256, under the channel's secret, of the seconds, a dot and
the body as it was sent. The time is signed too, so that an old message cannot be sent again by somebody who overheard it.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import time

HEADER = "EvSys-Signature"
TOLERANCE_SECONDS = 300


def sign(secret: str, body: bytes, *, at: int | None = None) -> str:
    """The header's value. at: unix seconds, now by default."""
    at = int(time.time()) if at is None else at
    return f"t={at},v1={_digest(secret, at, body)}"


def verify(secret: str, header: str, body: bytes) -> bool:
    """What a receiver does: is the signature right, and not older than five minutes?"""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    if not parts.get("t", "").isdecimal() or abs(time.time() - int(parts["t"])) > TOLERANCE_SECONDS:
        return False
    return hmac.compare_digest(_digest(secret, int(parts["t"]), body), parts.get("v1", ""))


def _digest(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def receiver_source() -> str:
    """These functions as a receiver can copy them."""
    imports = "import hashlib\nimport hmac\nimport time\n\n"
    return f"{imports}TOLERANCE_SECONDS = {TOLERANCE_SECONDS}\n\n\n{inspect.getsource(verify)}\n\n{inspect.getsource(_digest)}"
