"""What the SDK raises, as a BackendError with a sentence. Imports the SDK, so only an open connection does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import fireworks
import httpx

from recipes.errors import BackendError, ErrorKind, RecipeError

_LONGEST_DETAIL = 400


@contextmanager
def failures(doing: str, place: str) -> Iterator[None]:
    """Around calls of the SDK. doing: what is asked, as "the upload". Raises BackendError."""
    try:
        yield
    except RecipeError:
        raise
    except (
        fireworks.FireworksError,
        httpx.HTTPError,
        httpx.InvalidURL,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        raise failure_of(error, doing, place) from error


def failure_of(error: Exception, doing: str, place: str) -> BackendError:
    if isinstance(error, fireworks.APIStatusError):
        return status_failure(error.status_code, words_of(error.body) or short(str(error)), doing, place)
    if isinstance(error, fireworks.APITimeoutError | httpx.TimeoutException):
        return BackendError(f"{place} did not answer in time ({doing}).", permanent=False, kind=ErrorKind.TIMEOUT)
    if isinstance(error, fireworks.APIConnectionError | httpx.TransportError):
        why = short(str(error.__cause__ or error))
        return BackendError(f"{place} cannot be reached ({doing}): {why}.", permanent=False, kind=ErrorKind.CONNECTION)
    detail = f"{type(error).__name__}: {short(str(error))}"
    return BackendError(f"{place} answered {doing} with what is no answer: {detail}.", permanent=False, kind=ErrorKind.BAD_ANSWER)


def words_of(body: object) -> str:
    """The server's own sentence: {"message"}, {"error": {"message"}} or {"error": "…"}."""
    if isinstance(body, Mapping):
        for key in ("message", "error", "detail"):
            if found := words_of(body.get(key)):
                return found
        return ""
    return short(body) if isinstance(body, str) else ""


def status_failure(status: int, detail: str, doing: str, place: str) -> BackendError:
    if status == 401:
        return BackendError(
            f"{place} refused the key ({doing}, status 401): {detail}. Keys that may only ask models are refused too. Store one"
            " that may train under Credentials and name it in the run.",
            permanent=True,
            kind=ErrorKind.AUTH,
        )
    if status in (402, 412):
        return BackendError(f"{place} wants its billing settled first ({doing}): {detail}.", permanent=True, kind=ErrorKind.AUTH)
    if status == 403:
        return BackendError(f"This key may not do that at {place} ({doing}): {detail}.", permanent=True, kind=ErrorKind.AUTH)
    if status == 429:
        return BackendError(
            f"{place} grants no more now ({doing}, a quota or too many requests): {detail}.",
            permanent=False,
            kind=ErrorKind.RATE_LIMIT,
        )
    if status >= 500:
        return BackendError(
            f"{place} had a failure of its own ({doing}, status {status}): {detail}.", permanent=False, kind=ErrorKind.SERVER
        )
    return BackendError(f"{place} refused {doing} (status {status}): {detail}.", permanent=True, kind=ErrorKind.REQUEST)


def short(text: str) -> str:
    """One line, never with a signed address."""
    words = ["…" if "://" in word else word for word in text.split()]
    line = " ".join(words) or "no reason given"
    return (line[: _LONGEST_DETAIL - 1] + "…" if len(line) > _LONGEST_DETAIL else line).rstrip(".")
