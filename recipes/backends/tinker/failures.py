"""What the SDK raises, as a BackendError with a sentence. Imports the SDK, so only an open backend does."""

from __future__ import annotations

import tinker

from recipes.errors import BackendError, ErrorKind

_LONGEST_DETAIL = 400


def failure_of(error: BaseException, doing: str, place: str) -> BackendError:
    """doing: what was asked, as "the optimizer step". place: which server. An SDK client that was poisoned by an earlier failure
    is told by that failure."""
    if isinstance(error, RuntimeError) and "poisoned" in str(error) and error.__cause__ is not None:
        return failure_of(error.__cause__, doing, place)
    if isinstance(error, BackendError):
        return error
    if isinstance(error, tinker.APIStatusError):
        return _status_failure(error, doing, place)
    if isinstance(error, tinker.APITimeoutError):
        return BackendError(f"{place} did not answer in time ({doing}).", permanent=False, kind=ErrorKind.TIMEOUT)
    if isinstance(error, tinker.APIConnectionError):
        return BackendError(f"{place} cannot be reached ({doing}): {_short(error)}.", permanent=False, kind=ErrorKind.CONNECTION)
    if isinstance(error, tinker.RequestFailedError):
        is_ours = str(getattr(error, "category", "")).lower().endswith("user")
        kind = ErrorKind.REQUEST if is_ours else ErrorKind.SERVER
        return BackendError(f"{place} refused {doing}: {_short(error)}.", permanent=is_ours, kind=kind)
    if isinstance(error, (tinker.TinkerError, ValueError, RuntimeError, KeyError, AttributeError)):
        return BackendError(f"{place} failed at {doing}: {_short(error)}.", permanent=False, kind=ErrorKind.BAD_ANSWER)
    return BackendError(f"{place} failed at {doing}: {type(error).__name__}: {_short(error)}.", permanent=False)


def _status_failure(error: tinker.APIStatusError, doing: str, place: str) -> BackendError:
    status, detail = error.status_code, _short(error)
    if status == 401:
        return BackendError(
            f"{place} refused the key ({doing}, status 401). Store a valid key under Credentials and name it in the run.",
            permanent=True,
            kind=ErrorKind.AUTH,
        )
    if status == 402:
        return BackendError(f"{place} wants its billing settled first ({doing}): {detail}.", permanent=True, kind=ErrorKind.AUTH)
    if status == 403:
        return BackendError(f"This key may not do that at {place} ({doing}): {detail}.", permanent=True, kind=ErrorKind.AUTH)
    if status == 429:
        return BackendError(f"{place} is asked too often ({doing}).", permanent=False, kind=ErrorKind.RATE_LIMIT)
    if status >= 500:
        return BackendError(
            f"{place} had a failure of its own ({doing}, status {status}).", permanent=False, kind=ErrorKind.SERVER
        )
    return BackendError(f"{place} refused {doing} (status {status}): {detail}.", permanent=True, kind=ErrorKind.REQUEST)


def _short(error: BaseException) -> str:
    """One line without the SDK's ids and dumps, never with a header."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text[: _LONGEST_DETAIL - 1] + "…" if len(text) > _LONGEST_DETAIL else text).rstrip(".")
