"""Sends one signed message to a URL that a user entered, which is a way into the network this server stands in: the address is
checked when it is connected to (evsys_web/addresses.py), redirects are not followed, and the answer's body is not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from django.conf import settings

from evsys_web.addresses import allows_address
from evsys_web.notifications.models import Notice
from evsys_web.notifications.signature import HEADER, sign
from recipes.outbound import guarded_transport

SECONDS = 15.0
"""For everything: looking the name up, connecting, sending, and the answer's first line."""


class DeliveryFailed(Exception):
    """A sentence for the channel's page. code: what the receiver answered, if it did. is_final: trying again cannot help.
    is_gone: the receiver asks for no more messages."""

    def __init__(self, sentence: str, *, code: int | None = None, is_final: bool = False, is_gone: bool = False) -> None:
        super().__init__(sentence)
        self.code, self.is_final, self.is_gone = code, is_final, is_gone


def body_of(notice: Notice) -> dict[str, Any]:
    """The message; the same at every try."""
    subject = {
        "kind": notice.subject_kind,
        "id": notice.subject_id,
        "name": notice.subject_name,
        "url": f"{settings.URL}{notice.path}",
    }
    return {
        "id": notice.event_id,
        "type": notice.type,
        "occurred_at": notice.occurred_at.isoformat(),
        "project": {"id": notice.project_id, "name": notice.project.name},
        "subject": subject if notice.subject_kind else None,
        "message": notice.sentence,
    }


def post(url: str, secret: str, notice: Notice) -> int:
    """The status that the receiver answered, 2xx. Raises DeliveryFailed."""
    body = json.dumps(body_of(notice), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "EvSys-Web",
        "EvSys-Event-Id": notice.event_id,
        "EvSys-Event": notice.type,
        HEADER: sign(secret, body),
    }
    code = asyncio.run(_status_of(url, body, headers))
    if 200 <= code < 300:
        return code
    if code == 410:
        raise DeliveryFailed("The receiver answered 410: it wants no more messages.", code=code, is_final=True, is_gone=True)
    if 300 <= code < 400:
        raise DeliveryFailed(f"The receiver answered {code}, a redirect, which is not followed. Enter the final URL.", code=code)
    raise DeliveryFailed(f"The receiver answered {code}.", code=code)


async def _status_of(url: str, body: bytes, headers: dict[str, str]) -> int:
    import httpx2

    transport = guarded_transport(allows_address, httpx2.Limits(max_connections=1))
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=SECONDS) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            return int(response.status_code)
    except (TimeoutError, httpx2.TimeoutException):
        raise DeliveryFailed(f"The receiver gave no answer within {SECONDS:.0f} seconds.") from None
    except httpx2.HTTPError as error:
        raise DeliveryFailed(f"The receiver cannot be reached: {_short(error)}.") from None
    except OSError as error:  # the address is not allowed; a name may lead elsewhere tomorrow, so this is no reason to give up
        raise DeliveryFailed(f"The receiver’s name {_short(error)}") from None
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise DeliveryFailed(f"The URL cannot be used: {_short(error)}.", is_final=True) from None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200].rstrip(".")
