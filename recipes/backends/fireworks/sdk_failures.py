"""What Fireworks' training SDK raises, as a BackendError with a sentence. Imports that SDK, so only an open session does."""

from __future__ import annotations

from typing import Any

import httpx
from fireworks.training import sdk

from recipes.backends.fireworks.failures import failure_of as other_failure
from recipes.backends.fireworks.failures import short, status_failure, words_of
from recipes.errors import BackendError, ErrorKind


def failure_of(error: Exception, doing: str, place: str) -> BackendError:
    if isinstance(error, sdk.APIStatusError):
        return status_failure(error.status_code, short(str(error)), doing, place)
    if isinstance(error, sdk.APITimeoutError | TimeoutError):
        return BackendError(f"{place} did not answer in time ({doing}).", permanent=False, kind=ErrorKind.TIMEOUT)
    if isinstance(error, sdk.APIConnectionError):
        return BackendError(
            f"{place} cannot be reached ({doing}): {short(str(error))}.", permanent=False, kind=ErrorKind.CONNECTION
        )
    if isinstance(error, sdk.RequestFailedError):
        is_ours = str(getattr(error, "category", "")).lower().endswith("user")
        kind = ErrorKind.REQUEST if is_ours else ErrorKind.SERVER
        return BackendError(f"{place} refused {doing}: {short(str(error))}.", permanent=is_ours, kind=kind)
    if isinstance(error, httpx.HTTPStatusError):
        return status_failure(error.response.status_code, _words(error.response), doing, place)
    if isinstance(error, sdk.SamplingRequestError):
        return _sampling_failure(error, doing, place)
    return other_failure(error, doing, place)


def _sampling_failure(error: Any, doing: str, place: str) -> BackendError:
    """After all attempts of the SDK, whose own words name the model and ids of requests."""
    cause, tried = error.__cause__, f"asked {error.attempts} times"
    if error.final_status is not None:
        words = _words(cause.response) if isinstance(cause, httpx.HTTPStatusError) else "no reason given"
        return status_failure(error.final_status, f"{words} ({tried})", doing, place)
    if isinstance(error, sdk.DeploymentSamplerTimeoutError):
        return BackendError(f"{place} did not answer in time ({doing}, {tried}).", permanent=False, kind=ErrorKind.TIMEOUT)
    why = short(str(cause or error))
    return BackendError(f"{place} cannot be reached ({doing}, {tried}): {why}.", permanent=False, kind=ErrorKind.CONNECTION)


def _words(response: httpx.Response) -> str:
    try:
        return words_of(response.json()) or short(response.text)
    except ValueError:
        return short(response.text)
