"""From a file to stored rows in one streamed pass: nothing of it is kept unless every row is good, or its owner says so."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile

from evsys_web.attachments import inert
from evsys_web.datasets.rowfile import RowFileWriter
from evsys_web.datasets.splits import FieldReader, NoSplits, check_names, content_hash
from recipes.conversions import Reading, recognise
from recipes.errors import ConfigError, DataError
from recipes.jsonl import At, Scanned, Words
from recipes.rows import Report, RowFormat, parse, parse_all
from recipes.sources import FileKind, scan, sniff
from recipes.types import Row

SAMPLE_ROWS = 100
MAX_SAMPLE_WEIGHT = 1_000_000
MAX_METADATA_KEYS = 30


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a file seems to hold: its kind, how to read it (None: a person must say), and its first rows as they stand."""

    kind: FileKind
    reading: Reading | None
    sample: list[Row]

    @property
    def columns(self) -> list[str]:
        """Every key of the sample's rows, in the order of first sight."""
        return list(dict.fromkeys(key for row in self.sample for key in row))


class ReadingNeeded(DataError):
    """The rows are in no format of ours: choose a conversion, or say which column is what."""

    def __init__(self, proposal: Proposal) -> None:
        if proposal.reading is None:
            keys = ", ".join(proposal.columns[:12])
            message = f"The format of these rows is not known (their keys: {keys}). Say which column holds what."
        else:
            message = f"These rows look like {proposal.reading.title}. Confirm that they are to be converted."
        super().__init__(
            message, line=1, found=f"keys {', '.join(proposal.columns[:12])}", expected="messages, preference or task rows"
        )
        self.proposal = proposal


class RowsRefused(DataError):
    """Some rows are bad. `report` counts and lists them; `errors_csv` has every one; `num_good` could still be imported."""

    def __init__(self, report: Report, reading: Reading, errors_csv: BinaryIO) -> None:
        first = report.errors[0]
        more = f" And {report.num_errors - 1:,} more refused rows." if report.num_errors > 1 else ""
        super().__init__(f"{first}{more}", line=first.line, field=first.field, found=first.found, expected=first.expected)
        self.report = report
        self.reading = reading
        self.errors_csv = errors_csv


class SpilledFile(TemporaryUploadedFile):
    """A temporary file of ours that storage moves into place instead of copying it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "application/octet-stream", 0, None)

    @property
    def stream(self) -> IO[bytes]:
        """The file itself: Django's wrapper would cost a call per line."""
        assert self.file is not None
        return self.file

    def finish(self) -> None:
        """Everything is written: let storage see all of it."""
        self.stream.flush()
        self.size = self.stream.tell()


@dataclass
class Intake:
    """The good rows of a file as they will be stored, in temporary files that vanish when closed."""

    report: Report
    lines: SpilledFile
    offsets: SpilledFile
    lines_hash: str = ""
    num_bytes: int = 0
    metadata_keys: list[str] = field(default_factory=list)
    splits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def content_hash(self) -> str:
        return content_hash(self.lines_hash, self.splits)

    def take_splits(self, declared: list[Row]) -> None:
        """The splits that the file said it holds, if they are the rows that were read: a file may say anything."""
        sizes = [each["num_rows"] for each in declared]
        with suppress(ConfigError):
            check_names([each["name"] for each in declared])
            if all(type(size) is int and size > 0 for size in sizes) and sum(sizes) == self.report.count:
                self.splits = declared

    def close(self) -> None:
        self.lines.close()
        self.offsets.close()


def propose(path: Path, filename: str) -> Proposal:
    """Judge a file by its first rows. Raises DataError when it holds none that can be read."""
    kind = sniff(path, filename)
    sample: list[Row] = []
    first_error: DataError | None = None
    weight = 0
    for _, row, _ in islice(scan(path, kind), SAMPLE_ROWS):
        if isinstance(row, DataError):
            first_error = first_error or row
        else:
            sample.append(row)
            weight += _weight(row)
        if weight > MAX_SAMPLE_WEIGHT:
            break
    if not sample:
        if first_error is not None:
            raise first_error
        At(1).refuse("", Words("no rows"), "at least one row")
    return Proposal(kind, recognise(sample), sample)


def _weight(row: Row) -> int:
    """Values and characters that a row holds, so that a sample of huge rows stays a small one."""
    weight = 0
    pending: list[object] = [row]
    while pending:
        value = pending.pop()
        weight += 1
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return weight


def take_in(path: Path, kind: FileKind, reading: Reading) -> tuple[Intake, BinaryIO]:
    """Read, convert and check every row. Gives the good rows and, as CSV, every refusal; both are temporary files.
    Where rows of ours say in the field `split` which stretch of the file is which split, the intake has those splits.

    Memory stays bounded: one row at a time, MAX_LISTED_ERRORS refusals, and for tasks the ids seen.
    """
    if not reading.title:
        with suppress(NoSplits):
            return _take_in(path, kind, reading, FieldReader())
    return _take_in(path, kind, reading, None)


def _take_in(path: Path, kind: FileKind, reading: Reading, fields: FieldReader | None) -> tuple[Intake, BinaryIO]:
    with ExitStack() as stack:
        intake = Intake(Report(reading.format), SpilledFile("rows.jsonl"), SpilledFile("rows.offsets"))
        stack.callback(intake.close)
        errors = stack.enter_context(tempfile.TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR))
        with _refusals(errors) as refuse:
            rows = scan(path, kind)
            if fields is None:
                _write_rows(intake, parse_all(rows, reading.convert), refuse)
            else:
                _write_rows(intake, fields.counted(parse_all(fields.rest_of(rows), reading.convert)), refuse)
                intake.splits = fields.splits()
        stack.pop_all()  # both are the caller's now
    return intake, errors


@contextmanager
def _refusals(errors: BinaryIO) -> Iterator[Callable[[Scanned, DataError], None]]:
    """Writes each as a row of CSV."""
    table = io.TextIOWrapper(errors, encoding="utf-8", newline="", write_through=False)
    refusals = csv.writer(table)
    refusals.writerow(["place", "number", "field", "found", "expected"])

    def refuse(scanned: Scanned, error: DataError) -> None:
        cells = [scanned.place, scanned.line, error.field or "", error.found or "", error.expected or ""]
        refusals.writerow(inert(str(cell)) for cell in cells)

    yield refuse
    table.flush()
    table.detach()


def _write_rows(intake: Intake, scanned: Iterable[Scanned], refuse: Callable[[Scanned, DataError], None]) -> None:
    writer = RowFileWriter(intake.lines.stream, intake.offsets.stream)
    keys: dict[str, None] = {}
    for each in scanned:
        intake.report.add(each.row)
        if isinstance(each.row, DataError):
            refuse(each, each.row)
            continue
        writer.write(each.row)
        if "metadata" in each.row and len(keys) < MAX_METADATA_KEYS:
            keys |= dict.fromkeys(each.row["metadata"])
    intake.lines.finish()
    intake.offsets.finish()
    intake.lines_hash, intake.num_bytes = writer.lines_hash, writer.num_bytes
    intake.metadata_keys = list(keys)[:MAX_METADATA_KEYS]


def take_in_splits(splits: Mapping[str, Iterable[Row]], format: RowFormat) -> Intake:
    """Check and write the rows of every split, one after another; one row is held at a time, and for tasks the ids seen.

    Raises DataError at the first bad row, naming its split, and for a split without rows; ConfigError for a name or when
    there is no split.
    """
    check_names(splits)
    if not splits:
        raise ConfigError("Give at least one split with rows.", path=("splits",))
    sizes = dict.fromkeys(splits, 0)

    def every_row() -> Iterator[Scanned]:
        for name, rows in splits.items():
            for number, row in enumerate(rows, start=1):
                sizes[name] = number
                yield Scanned(number, row, f"split {name}, row")
            if not sizes[name]:
                raise DataError(f"The split {name} would have no rows.", field=name, found="no rows", expected="at least one row")

    def refuse(scanned: Scanned, error: DataError) -> None:
        raise error

    with ExitStack() as stack:
        intake = Intake(Report(format), SpilledFile("rows.jsonl"), SpilledFile("rows.offsets"))
        stack.callback(intake.close)
        _write_rows(intake, parse_all(every_row(), lambda row, at: parse(row, format, line=at.line, place=at.place)), refuse)
        stack.pop_all()
    intake.splits = [{"name": name, "num_rows": num_rows} for name, num_rows in sizes.items()]
    return intake


def preview(proposal: Proposal, reading: Reading, *, count: int = 3) -> Iterator[tuple[Row, Row | DataError]]:
    """The first rows before and after a reading, to be looked at before anything is imported."""
    for number, row in enumerate(proposal.sample[:count], start=1):
        try:
            yield row, reading.convert(row, At(number, "row"))
        except DataError as error:
            yield row, error
