"""Reaching a Tinker server and waiting for it: the SDK, the key, and waits that end.

The SDK retries without end where a server is gone or always busy, so every wait here has an end of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from recipes.backends.tinker.config import TinkerConfig
from recipes.backends.waiting import in_thread, wait_for
from recipes.errors import BackendError, ConfigError, ErrorKind

if TYPE_CHECKING:
    import tinker

ResultT = TypeVar("ResultT")

KEY_VARIABLE = "TINKER_API_KEY"
KEYLESS = "tml-none"
"""What the SDK is given for a server that asks for no key: without any it would look for one in the worker's home."""
NOTE_SECONDS = 60.0
"""How long a wait is before the run's reader is told of it, and how often again."""
CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Connection:
    """A client of one server. Nothing is begun there before the first thing is created.

    report(level, sentence): tells whoever reads the run what is being waited for.
    """

    settings: TinkerConfig
    service: tinker.ServiceClient
    key: str = field(repr=False)
    report: Callable[[str, str], None] | None = None

    @classmethod
    async def open(
        cls, settings: TinkerConfig, secrets: Mapping[str, str], report: Callable[[str, str], None] | None
    ) -> Connection:
        """Raises ConfigError without SDK or key, BackendError when nobody answers there."""
        sdk = import_sdk()
        key = chosen_key(settings, secrets)
        await _reach(settings)
        service = sdk.ServiceClient(base_url=settings.base_url, api_key=key, project_id=settings.project_id)
        return cls(settings, service, key, report)

    @property
    def place(self) -> str:
        return place_of(self.settings)

    async def call(self, work: Callable[[], ResultT], doing: str) -> ResultT:
        """What the SDK only offers as a blocking call, as is the first creation: it begins the session. Raises BackendError."""
        longest = self.settings.connect_seconds + self.settings.timeout_seconds
        return await self.wait(in_thread(work), doing, longest=longest)

    async def wait(self, future: Future[ResultT], doing: str, *, longest: float | None = None) -> ResultT:
        """The result, or BackendError. Cancelling the wait cancels the request."""
        from recipes.backends.tinker.failures import failure_of

        longest = longest or self.settings.timeout_seconds
        return await wait_for(
            future, doing, self.place, longest, failure_of=failure_of, report=self.report, note_seconds=NOTE_SECONDS
        )

    def rest(self) -> tinker.RestClient:
        """For what needs no session. The SDK keeps one per address and key."""
        import tinker

        return tinker.RestClient(base_url=self.settings.base_url, api_key=self.key)

    async def close(self) -> None:
        """Finish the session, so that the service frees it. One that does not answer any more is left to its heartbeat."""
        closing = self.service.close("success")
        try:
            await asyncio.wait_for(asyncio.wrap_future(closing.future()), CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - whatever is wrong with the server, the work has ended
            return


def import_sdk() -> Any:
    """The `tinker` package, with its telemetry off unless the operator turned it on. Raises ConfigError where it is missing."""
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    logging.getLogger("tinker").setLevel(logging.ERROR)  # it warns at every poll of a request that still waits
    try:
        import tinker
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"The tinker backend needs {missing.name}, which is not installed here. Install requirements.txt.",
            path=("backend", "kind"),
        ) from None
    return tinker


def chosen_key(settings: TinkerConfig, secrets: Mapping[str, str]) -> str:
    """The key to send. The operator's own key goes to the hosted service only, never to an address that a user typed.
    Raises ConfigError when the hosted service would be called without one."""
    if stored := secrets.get("backend_api_key"):
        return stored
    if settings.base_url is not None:
        return KEYLESS
    if key := os.environ.get(KEY_VARIABLE):
        return key
    raise ConfigError(
        f"Tinker needs a key. Store one under Credentials and name it here, or set {KEY_VARIABLE} where the worker runs.",
        path=("backend", "params", "credential"),
    )


def place_of(settings: TinkerConfig) -> str:
    return "Tinker" if settings.base_url is None else f"The server at {urlsplit(settings.base_url).netloc}"


async def _reach(settings: TinkerConfig) -> None:
    """A server that is not there is found out at once; the SDK would try for minutes before it says so."""
    import httpx

    if settings.base_url is None:
        return
    place = place_of(settings)
    try:
        async with httpx.AsyncClient(timeout=settings.connect_seconds) as client:
            await client.get(f"{settings.base_url}/api/v1/healthz")
    except httpx.TimeoutException:
        sentence = f"{place} did not answer within {settings.connect_seconds:g} seconds."
        raise BackendError(sentence, permanent=False, kind=ErrorKind.TIMEOUT) from None
    except httpx.HTTPError as error:
        raise BackendError(
            f"{place} cannot be reached ({error}). Is it running, and is the address right?",
            permanent=False,
            kind=ErrorKind.CONNECTION,
        ) from None
