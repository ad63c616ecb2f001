"""What Fireworks' training SDK raises, as a BackendError with a sentence. Imports that SDK, so only an open session does."""

from __future__ import annotations

from fireworks.training import sdk

from recipes.backends.fireworks.failures import failure_of as other_failure
from recipes.backends.fireworks.failures import short, status_failure
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
    return other_failure(error, doing, place)
