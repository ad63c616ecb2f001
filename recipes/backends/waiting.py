"""Waiting for a hosted service: what its SDK is asked, with an end to every wait and a word to whoever reads the run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from recipes.errors import BackendError, ErrorKind, RecipeError

ResultT = TypeVar("ResultT")


async def wait_for(
    future: Future[ResultT],
    doing: str,
    place: str,
    longest: float,
    *,
    failure_of: Callable[[Exception, str, str], BackendError],
    report: Callable[[str, str], None] | None = None,
    note_seconds: float = 60.0,
) -> ResultT:
    """The result, or BackendError; failure_of(error, doing, place) tells the SDK's own errors apart. Cancelling the wait cancels
    the request. Says every `note_seconds` that it still waits."""
    wrapped = asyncio.wrap_future(future)
    waited = 0.0
    try:
        while True:
            pause = min(note_seconds, longest - waited)
            done, _ = await asyncio.wait({wrapped}, timeout=pause)
            if done:
                return wrapped.result()
            waited += pause
            if waited >= longest:
                raise BackendError(
                    f"{place} gave no result for {doing} within {longest:g} seconds.", permanent=False, kind=ErrorKind.TIMEOUT
                )
            if report is not None:
                report("info", f"{place} has not answered for {waited:.0f} seconds ({doing}); still waiting.")
    except (asyncio.CancelledError, RecipeError):
        raise
    except Exception as error:  # noqa: BLE001 - the SDK's own kinds are told apart there
        raise failure_of(error, doing, place) from error
    finally:
        if not wrapped.done():
            wrapped.cancel()


def in_thread(work: Callable[[], ResultT]) -> Future[ResultT]:
    """Runs what an SDK only offers as a blocking call. A daemon, since a server that never answers must not keep the worker."""
    future: Future[ResultT] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="sdk-call", daemon=True).start()
    return future
