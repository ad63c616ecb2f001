"""Idempotency-Key on creates: the same key with the same request gives the first answer again for a day, and does nothing twice.

Two phases, because an upload may run for minutes and must not hold a transaction: a unique row claims the key, then keeps the
answer. Whoever comes second while the first is at work waits for its answer. A refusal or a failure frees the key, since nothing
was made. Where the database went away after something was begun to be written, or the process died, nobody knows whether it was
made: the key says so for the rest of its day, and does nothing. What could not be written of a key is written before the next one
is looked at in this process. Answers are kept veiled: one may hold a secret that is shown once.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, TypeVar

from django.conf import settings
from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.utils.timezone import now
from ninja.decorators import decorate_view
from ninja.errors import HttpError
from ninja.operation import Operation
from ninja.utils import contribute_operation_callback

from evsys_web.accounts.models import ApiToken, IdempotencyRecord, User
from evsys_web.api.auth import TokenAuth
from evsys_web.api.errors import problem
from evsys_web.api.rates import count_call
from evsys_web.encryption import unveil, veil

logger = logging.getLogger(__name__)
HEADER = "Idempotency-Key"
WAIT_SECONDS = 10.0
CHUNK_BYTES = 1024 * 1024
NOBODY_KNOWS = HTTPStatus.SERVICE_UNAVAILABLE
"""Kept for an answer where the database went away while something was made."""
IT_MAY_BE_MADE = (
    f"The first request with this {HEADER} was broken off, and what it asked for may have been made. Look; if it was not, ask "
    "anew with another key."
)
Operate = TypeVar("Operate", bound=Callable[..., Any])
_owed: deque[Callable[[], object]] = deque()
PARAMETER = {
    "in": "header",
    "name": HEADER,
    "schema": {"type": "string", "maxLength": 200},
    "required": False,
    "description": "Any text of your own. The same key with the same request gives the same answer for 24 hours.",
}


def idempotent(operation: Operate) -> Operate:
    """Put it between the router's decorator and the function: `@router.post(…)`, `@idempotent`, `def create_…`."""

    def document(made: Operation) -> None:
        extra = made.openapi_extra or {}
        made.openapi_extra = {**extra, "parameters": [*extra.get("parameters", []), PARAMETER]}

    contribute_operation_callback(operation, document)
    decorated: Operate = decorate_view(_once)(operation)
    return decorated


def _once(run: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(run)
    def answer(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        key = request.headers.get(HEADER, "")
        token = _token_of(request) if key else None
        if token is None:
            return run(request, **kwargs)  # nothing to remember; a caller who may not write is refused there
        if len(key) > 200:
            return problem(400, f"{HEADER} may have at most 200 characters; this one has {len(key)}.")
        if not count_call(request, token):  # here, since an answer that is given again never comes to the operation
            return problem(429)
        return _answer_once(request, token.user, key, lambda: run(request, **kwargs))

    return answer


def _token_of(request: HttpRequest) -> ApiToken | None:
    try:
        return TokenAuth()(request)
    except HttpError:
        return None


def _answer_once(request: HttpRequest, user: User, key: str, operate: Callable[[], HttpResponse]) -> HttpResponse:
    digest = fingerprint(request)
    deadline = time.monotonic() + WAIT_SECONDS
    _write_what_is_owed()
    while (record := _claim(user, key, digest)) is None:
        earlier = IdempotencyRecord.objects.filter(user=user, key=key).first()
        if earlier is None:
            continue  # its owner freed it a moment ago
        if earlier.request_hash != digest:
            return problem(409, f"This {HEADER} was used for another request. Choose a new key for a new request.")
        if earlier.status == NOBODY_KNOWS or earlier.is_abandoned:
            return problem(409, IT_MAY_BE_MADE)
        if earlier.status:
            return _again(earlier)
        if time.monotonic() > deadline:
            return problem(409, f"The first request with this {HEADER} is still at work. Ask again in a moment.")
        time.sleep(0.05)
    return _operate_as(record, operate)


def _operate_as(record: IdempotencyRecord, operate: Callable[[], HttpResponse]) -> HttpResponse:
    making = _Making()
    with ExitStack() as undo:
        undo.callback(_write, record.forget)
        with connection.execute_wrapper(making):
            response = operate()
        if response.status_code < 300 and not response.streaming:
            undo.pop_all()  # it is done, and must not be done twice
            body = veil(response.content.decode())
            _write(partial(record.remember, response.status_code, body, response.headers.get("Content-Type", "")))
        elif response.status_code in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE) and making.begun:
            undo.pop_all()
            _write(partial(record.remember, NOBODY_KNOWS, "", ""))
    return response


class _Making:
    """Whether any row was inserted, committed or not; without one nothing was made."""

    def __init__(self) -> None:
        self.begun = False

    def __call__(self, execute: Callable[..., Any], sql: object, params: Any, many: bool, context: Any) -> Any:
        self.begun = self.begun or str(sql).startswith("INSERT")
        return execute(sql, params, many, context)


def _write(change: Callable[[], object]) -> None:
    """At once, or when the database is back: the answer to whoever asked does not depend on it."""
    _owed.append(change)
    if connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()
    _write_what_is_owed()


def _write_what_is_owed() -> None:
    while True:
        try:
            change = _owed.popleft()
        except IndexError:
            return
        try:
            change()
        except (OperationalError, InterfaceError, InternalError):  # away, or back as a standby that only reads
            _owed.appendleft(change)
            logger.warning("What is kept of an %s waits for the database", HEADER, exc_info=True)
            return


def _claim(user: User, key: str, digest: str) -> IdempotencyRecord | None:
    IdempotencyRecord.objects.outdated(now()).filter(user=user).delete()
    try:
        with transaction.atomic():
            return IdempotencyRecord.objects.create(user=user, key=key, request_hash=digest)
    except IntegrityError:
        return None


def _again(record: IdempotencyRecord) -> HttpResponse:
    body = unveil(record.body)
    if body is None:
        return problem(409, f"The request with this {HEADER} was done; SECRET_KEY changed since, which seals its answer.")
    return HttpResponse(body, status=record.status, content_type=record.content_type, headers={"Idempotent-Replayed": "true"})


def fingerprint(request: HttpRequest) -> str:
    """sha256 over method, address and body; of uploaded files, their content. Two requests with the same mean the same."""
    seen = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if not (request.content_type or "").startswith("multipart/"):
        for chunk in _kept(request):
            seen.update(chunk)
        return seen.hexdigest()
    for name, values in sorted(request.POST.lists()):
        seen.update(f"{name}={values!r}\n".encode())
    for name, files in sorted(request.FILES.lists()):
        for file in files:
            seen.update(f"{name}:{file.name}:{file.size}\n".encode())
            for chunk in file.chunks():
                seen.update(chunk)
            file.seek(0)
    return seen.hexdigest()


def _kept(request: HttpRequest) -> Iterator[bytes]:
    """The body by chunks. It may be gigabytes of rows, so it is kept on disk for whoever reads it next from the start."""
    kept = tempfile.SpooledTemporaryFile(CHUNK_BYTES, dir=str(settings.FILE_UPLOAD_TEMP_DIR))  # noqa: SIM115 - the request's now
    while chunk := request.read(CHUNK_BYTES):
        kept.write(chunk)
        yield chunk
    kept.seek(0)
    request._stream = kept  # type: ignore[assignment]
    request._read_started = False  # type: ignore[attr-defined]
