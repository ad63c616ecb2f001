"""One shape for everything that goes wrong: problem+json (RFC 9457) with a sentence, and the fields it is about.

`{type, title, status, detail, errors: [{field, message, rule}]}`; `field` is a path such as "config.algorithm.learning_rate".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, RequestDataTooBig
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, Throttled, ValidationError
from pydantic import Field

from evsys_web.api.rates import tell_rate
from evsys_web.outages import MAKE_ROOM, RETRY_AFTER, is_database_away, is_full_disk
from evsys_web.rates import TooOften
from recipes.config import message_of
from recipes.errors import BackendError, CheckpointError, ConfigError, DataError, RecipeError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
SENTENCES = {
    HTTPStatus.BAD_REQUEST: "The request could not be read.",
    HTTPStatus.UNAUTHORIZED: "Send a valid token as 'Authorization: Bearer evs_…'. Make one on the API tokens page.",
    HTTPStatus.FORBIDDEN: "This token may not do that.",
    HTTPStatus.NOT_FOUND: "There is nothing at this address, or it belongs to a project you are not in.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than 10 MB. Rows of any size go to a dataset's versions.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not answer that method; the Allow header names those it does.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many calls with this token in a minute; Retry-After says in how many seconds to go on.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something broke on the server. The details are in its log.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer, or is too busy. Try again in a moment; with an "
    "Idempotency-Key nothing is made twice, and the key says so where it is not known whether it was made.",
    HTTPStatus.INSUFFICIENT_STORAGE: f"The disk of the server, or of its database, is full. {MAKE_ROOM}, then ask again; an "
    "Idempotency-Key says so where it is not known whether it was made.",
}


class FieldError(Schema):
    field: str = Field(description="Path of the value, such as config.algorithm.learning_rate; empty for the whole body.")
    message: str = Field(description="What is wrong and what is expected.")
    rule: str = Field(description="Name of the rule that was broken, stable for scripts.")


class Problem(Schema):
    """What every refusal looks like."""

    type: str = Field(default="about:blank", description="Always about:blank: the status says the kind.")
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field(default_factory=list)


class Conflict(HttpError):
    """409: what was asked does not fit the state of things. The message is a sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(409, message)


class Unprocessable(HttpError):
    """422: the input was understood and refused, with the fields it is about."""

    def __init__(self, message: str, *errors: FieldError) -> None:
        super().__init__(422, message)
        self.errors = errors


def problem(status: int, detail: str = "", errors: Sequence[FieldError] = ()) -> HttpResponse:
    """The answer for a refusal; without `detail` the sentence that belongs to the status."""
    kind = HTTPStatus(status)
    body = Problem(title=kind.phrase, status=status, detail=detail or SENTENCES.get(kind, kind.phrase), errors=list(errors))
    response = HttpResponse(json.dumps(body.model_dump()), status=status, content_type=MEDIA_TYPE)
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = "Bearer"
    return response


def dotted(path: Sequence[str | int]) -> str:
    """("data", "rows", 2, "role") → data.rows[2].role"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


# Where ninja found the value, and the parameter's own name for a body: noise to whoever sent it.
SOURCES = {"body", "query", "path", "form", "header", "file", "cookie"}


def field_errors(error: ValidationError) -> list[FieldError]:
    """ninja's list of pydantic errors as ours."""
    found = []
    for each in error.errors:
        path = list(each["loc"])
        if path and path[0] in SOURCES:
            source = path.pop(0)
            if source == "body" and path:
                path.pop(0)
        found.append(FieldError(field=dotted(path), message=_sentence(message_of(each)), rule=str(each["type"])))
    return found


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?", "…")) else f"{message}."


def _summary(errors: Sequence[FieldError]) -> str:
    if len(errors) == 1:
        where = f"{errors[0].field}: " if errors[0].field else ""
        return f"{where}{errors[0].message}"
    return f"{len(errors)} values were refused; see errors."


def install(api: NinjaAPI) -> None:
    """Teach the API to answer every exception in the one shape."""

    def when(kind: type[Exception], answer: Callable[[Any], HttpResponse]) -> None:
        api.add_exception_handler(kind, lambda _request, error: answer(error))

    def invalid(error: ValidationError) -> HttpResponse:
        errors = field_errors(error)
        return problem(422, _summary(errors), errors)

    def refused_config(error: ConfigError) -> HttpResponse:
        message = _sentence(str(error))
        return problem(422, message, [FieldError(field=dotted(error.path), message=message, rule="config")])

    def refused_data(error: DataError) -> HttpResponse:
        where = error.field or ""
        if error.line is not None:
            where = f"line {error.line}{': ' + where if where else ''}"
        return problem(422, str(error), [FieldError(field=where, message=str(error), rule="data")])

    def refused_form(error: DjangoValidationError) -> HttpResponse:
        named = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        errors = [
            FieldError(field="" if name == "__all__" else name, message=_sentence(text), rule="invalid")
            for name, texts in named.items()
            for text in texts
        ]
        return problem(422, _summary(errors), errors)

    def broke(error: Exception) -> HttpResponse:
        logger.error("The API failed", exc_info=error)
        if is_full_disk(error):
            return problem(507)
        if not is_database_away(error):
            return problem(500)
        answer = problem(503)
        answer["Retry-After"] = RETRY_AFTER
        return answer

    def refused(error: HttpError) -> HttpResponse:
        if error.status_code == HTTPStatus.BAD_REQUEST and str(error).startswith("Cannot parse"):  # ninja's, without a reason
            return problem(400, "The body is not valid JSON. Send JSON with 'Content-Type: application/json'.")
        return problem(error.status_code, _sentence(str(error)), getattr(error, "errors", ()))

    def refused_for_now(error: TooOften) -> HttpResponse:
        answer = problem(429, str(error))
        answer["Retry-After"] = str(error.seconds)
        return answer

    when(Exception, broke)
    when(HttpError, refused)
    when(Throttled, lambda error: problem(429))
    when(TooOften, refused_for_now)
    when(AuthenticationError, lambda error: problem(401))
    when(RequestDataTooBig, lambda error: problem(413))
    when(PermissionDenied, lambda error: problem(403, _sentence(str(error)) if str(error) else ""))
    when(Http404, lambda error: problem(404))
    when(ObjectDoesNotExist, lambda error: problem(404))
    when(ValidationError, invalid)
    when(DjangoValidationError, refused_form)
    when(RecipeError, lambda error: problem(409, str(error)))
    when(CheckpointError, lambda error: problem(409, str(error)))
    when(BackendError, lambda error: problem(502, str(error)))
    when(ConfigError, refused_config)
    when(DataError, refused_data)


class ProblemMiddleware:
    """What Django itself refuses below /api/ (unknown address, wrong method, too large a body) in the same shape."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return _as_problem(request, response)
        return self._later(request, response)

    async def _later(self, request: HttpRequest, response: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return _as_problem(request, await response)


def _as_problem(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    tell_rate(request, response)
    foreign = response.headers.get("Content-Type", "") != MEDIA_TYPE
    if not (request.path_info.startswith("/api/") and response.status_code >= 400 and foreign):
        return response
    answer = problem(response.status_code)
    for name, value in response.headers.items():  # Allow, Retry-After, what the middleware below this one says about frames
        answer.headers.setdefault(name, value)
    answer.headers["Content-Length"] = str(len(answer.content))  # not that of the page which this replaces
    return answer
