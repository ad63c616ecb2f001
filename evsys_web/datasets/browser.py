"""The rows of a version a page at a time, or those that hold a text: one reading of the address for the page and its fragment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from django.http import QueryDict

from evsys_web.datasets.chats import ShownRow, shown_row
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.search import FIELDS, MAX_TEXT, search
from evsys_web.datasets.splits import Split, stretches
from recipes.types import Row

ROWS_PER_PAGE = 10


class Asked(NamedTuple):
    """What the address asks for. Rows are numbered from 1 over the whole version, whatever split is looked at: a row keeps its
    number, and a link to it stays right."""

    split: str
    query: str
    field: str
    row: int
    page: int
    going_on: int

    @classmethod
    def of(cls, values: QueryDict) -> Asked:
        field = values.get("field", "")
        return cls(
            split=values.get("split", "")[:MAX_TEXT],
            query=values.get("q", "").strip()[:MAX_TEXT],
            field=field if field in FIELDS else "",
            row=whole_number(values.get("row")),
            page=whole_number(values.get("page")),
            going_on=whole_number(values.get("from")),
        )


@dataclass(frozen=True, slots=True)
class RowsPage:
    """`first` … `last`: numbers of the rows on the page, or of those that were searched. `page`, `num_pages` count from 1."""

    within: Split
    rows: list[ShownRow]
    first: int
    last: int
    page: int = 1
    num_pages: int = 1
    marked: int = 0

    @property
    def end(self) -> int:
        """Number of the last row of the split, or version."""
        return self.within.stop

    @property
    def num_searched(self) -> int:
        return self.last - self.within.start

    @property
    def goes_on(self) -> bool:
        return self.last < self.end

    @property
    def begin(self) -> int:
        return self.within.start + 1


def browse(version: DatasetVersion, asked: Asked) -> RowsPage:
    """Raises DataError when the stored file is gone."""
    within = _stretch(version, asked.split)
    if asked.query:
        return _found(version, asked, within)
    num_pages = max(1, -(-within.num_rows // ROWS_PER_PAGE))
    wanted = min(max(asked.row - 1, within.start), within.stop - 1) if asked.row else None
    page = (wanted - within.start) // ROWS_PER_PAGE + 1 if wanted is not None else min(max(asked.page, 1), num_pages)
    start = within.start + (page - 1) * ROWS_PER_PAGE
    rows = list(enumerate(version.rows.between(start, min(start + ROWS_PER_PAGE, within.stop)), start=start))
    marked = wanted + 1 if wanted is not None else 0
    return RowsPage(within, _shown(version, rows), start + 1, start + len(rows), page, num_pages, marked)


def _found(version: DatasetVersion, asked: Asked, within: Split) -> RowsPage:
    start = min(max(asked.going_on, within.start), within.stop)
    found = search(version.rows, asked.query, within=within, start=start, field=asked.field)
    return RowsPage(within, _shown(version, found.rows), start + 1, found.next_start)


def _stretch(version: DatasetVersion, name: str) -> Split:
    """The named split; all rows for a name that is none, since addresses get old."""
    return version.stretch(name) if version.has_split(name) else version.stretch()


def _shown(version: DatasetVersion, rows: list[tuple[int, Row]]) -> list[ShownRow]:
    splits = stretches(version.splits)

    def split_of(position: int) -> str:
        return next((split.name for split in splits if split.start <= position < split.stop), "")

    return [shown_row(row, version.format, position + 1, split=split_of(position)) for position, row in rows]


def tabs(version: DatasetVersion, chosen: Split) -> list[dict[str, Any]]:
    """The splits to choose from, all rows first; none for a version without splits."""
    if not version.splits:
        return []
    splits = [Split("", 0, version.num_rows), *stretches(version.splits)]
    return [{"name": each.name, "num_rows": each.num_rows, "is_chosen": each.name == chosen.name} for each in splits]


def whole_number(text: str | None) -> int:
    """0 for what is none: an address that was mistyped shows the first page."""
    return int(text) if text and text.isdecimal() and len(text) < 16 else 0
