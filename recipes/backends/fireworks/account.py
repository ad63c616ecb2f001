"""A connection to an account at Fireworks through the official SDK, and whose account it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any, TypeVar

import fireworks
import httpx

from recipes.backends.fireworks.config import HOSTED, FireworksConfig, place_of
from recipes.backends.fireworks.failures import failures
from recipes.errors import BackendError, ConfigError, ErrorKind

T = TypeVar("T")

MOST_PAGES = 100


class FireworksAccount:
    """What jobs and deployments share. place: the service as sentences name it. account: whose resources they are."""

    def __init__(self, settings: FireworksConfig, key: str, *, account: str = "") -> None:
        """Connect and find the account. account: the one where things of ours lie already. Raises ConfigError, and BackendError
        also for a key that leads to another."""
        self._url = settings.base_url or HOSTED
        self.place = place_of(settings)
        self._timeout = settings.timeout_seconds
        self._client = fireworks.Fireworks(
            api_key=key,
            account_id=settings.account_id or "",
            base_url=self._url,
            timeout=settings.timeout_seconds,
            http_client=fireworks.DefaultHttpxClient(follow_redirects=False, verify=_authorities()),
        )
        self._bare = httpx.Client(timeout=settings.timeout_seconds, verify=_authorities())
        with ExitStack() as undo:
            undo.callback(self.close)
            self.account = self._account(settings.account_id or "", account)
            undo.pop_all()
        self._client.account_id = self.account

    def close(self) -> None:
        self._client.close()
        self._bare.close()

    def _account(self, chosen: str, known: str) -> str:
        """chosen: by the settings. known: where things of ours lie, so that the key must lead there before anything is said to be
        gone, or ordered."""
        if chosen and not known:
            return chosen
        try:
            names = self._accounts()
        except BackendError as error:
            if not error.permanent or not chosen or known != chosen:
                raise
            names = [chosen]  # a key that may not list accounts may still work in one
        if known in names:
            return known
        if known:
            raise BackendError(
                f"What this run made lies in the account {known} of {self.place}, but its key leads to"
                f" {', '.join(sorted(names)[:20]) or 'no account'} now. Nothing was done. Store a key of {known} under that"
                " credential's name and try again.",
                permanent=True,
                kind=ErrorKind.AUTH,
            )
        if len(names) == 1:
            return names[0]
        if not names:
            raise ConfigError(f"This key belongs to no account at {self.place}.", path=("backend", "params", "account_id"))
        raise ConfigError(
            f"This key may use several accounts: {', '.join(sorted(names)[:20])}. Say which one.",
            path=("backend", "params", "account_id"),
        )

    def _accounts(self) -> list[str]:
        with failures("whose key this is", self.place):
            return [str(account.name).removeprefix("accounts/") for account in self._client.accounts.list()]

    def _checkpoint_rows(self, parent: str) -> list[dict[str, Any]]:
        """What the service lists below a job or a session. Raises what the SDK raises."""
        found: list[dict[str, Any]] = []
        next_page = ""
        for _ in range(MOST_PAGES):
            query = {"pageSize": 200, **({"pageToken": next_page} if next_page else {})}
            page: Any = self._client.get(f"/v1/{parent}/checkpoints", cast_to=object, options={"params": query})
            found += page.get("trainingSessionCheckpoints") or page.get("checkpoints") or []
            if not (next_page := page.get("nextPageToken") or ""):
                break
        return found

    def _delete_model(self, model_id: str) -> None:
        """One that is not there any more is deleted already. Raises what the SDK raises."""
        self._unless_missing(lambda: self._client.models.delete(model_id))

    def _unless_missing(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except fireworks.NotFoundError:
            return None


@cache
def _authorities() -> ssl.SSLContext:
    """Read once: it takes a quarter of a second."""
    return httpx.create_ssl_context()
