"""Which work a log line belongs to, and how a line looks: for people, or (LOG_FORMAT=json) one JSON object for a collector.

A worker's process does one piece of work, or several in threads. The threads that say whose they are (`of`) are believed; any
other line belongs to the only work of the process, where there is but one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from django.db.models import Model


class Subject(NamedTuple):
    """A row: `kind` is its model's name in lower case."""

    kind: str
    pk: int

    @classmethod
    def row(cls, row: Model) -> Subject:
        return cls(type(row).__name__.lower(), row.pk)


_of_this_thread: ContextVar[Subject | None] = ContextVar("subject_of_this_thread", default=None)
_in_this_process: list[Subject] = []
_changing = Lock()


@contextmanager
def of(subject: Subject) -> Iterator[None]:
    """Lines of this thread are about that row."""
    token = _of_this_thread.set(subject)
    try:
        yield
    finally:
        _of_this_thread.reset(token)


def begin(subject: Subject) -> None:
    """This process works on that row from now on, with whatever threads the work has."""
    with _changing:
        _in_this_process.append(subject)


def end(subject: Subject) -> None:
    with _changing:
        _in_this_process.remove(subject)


def subject() -> Subject | None:
    at_work = _in_this_process
    return _of_this_thread.get() or (at_work[0] if len(at_work) == 1 else None)


class SubjectFilter(logging.Filter):
    """Gives each record `work` and `work_id`, None without any work."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = subject()
        record.work, record.work_id = found or (None, None)
        return True


class LineFormatter(logging.Formatter):
    """For people; `about` names the work in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        work = getattr(record, "work", None)
        record.about = f" [{work} {getattr(record, 'work_id', None)}]" if work else ""
        return super().format(record)
