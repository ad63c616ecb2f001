"""What a worker does between a version and the Hugging Face hub, once it has the transfer's row and the key in hand."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

from evsys_web.datasets import actions, hub
from evsys_web.datasets.downloads import ExportFormat, exported
from evsys_web.datasets.intake import ReadingNeeded, RowsRefused, SpilledFile, propose
from evsys_web.datasets.models import DatasetVersion, HubTransfer
from evsys_web.datasets.splits import TRAIN, check_names
from recipes.conversions import Reading
from recipes.errors import ConfigError, DataError
from recipes.jsonl import At, canonical_line, refuse_unstorable, scan_jsonl
from recipes.parquet_rows import JSON_TEXT
from recipes.sources import scan, sniff
from recipes.types import Row


def push(transfer: HubTransfer, token: str) -> str:
    """Publish the version as one commit: a file per split and a card. Gives the commit's address. Raises RecipeError."""
    version = transfer.version
    if version is None:
        raise ConfigError("The version was deleted before it was published.")
    format = ExportFormat(transfer.format)
    splits: list[str | None] = [each["name"] for each in version.splits] or [None]
    with tempfile.TemporaryDirectory(dir=settings.FILE_UPLOAD_TEMP_DIR) as folder:
        files: dict[str, Path | bytes] = {}
        paths: dict[str, str] = {}
        for number, split in enumerate(splits):
            transfer.alive()
            path = Path(folder) / str(number)
            with path.open("wb") as file:
                file.writelines(exported(version, format, split))
            paths[split or TRAIN] = f"data/{split or TRAIN}-00000-of-00001.{format}"
            files[paths[split or TRAIN]] = path
        files["README.md"] = card(version, paths).encode()
        transfer.alive()
        return hub.publish_files(
            transfer.repo_id, files, private=transfer.is_private, message=f"Add {version.reference}", token=token
        )


def card(version: DatasetVersion, paths: dict[str, str]) -> str:
    """The dataset's page on the hub: which file is which split, and how the rows came to be."""
    files = [{"split": split, "path": path} for split, path in paths.items()]
    head = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}], "tags": ["evsys-web"]}, sort_keys=False)
    facts = [
        ("Version", version.reference),
        ("Rows", f"{version.num_rows:,} of the format {version.format}"),
        *((f"Split {each['name']}", f"{each['num_rows']:,} rows") for each in version.splits),
        ("Made from", version.source),
        ("Converted", version.conversion),
        ("Left out", f"{version.num_left_out:,} rows that were refused" if version.num_left_out else ""),
        ("Made", f"{version.created_at:%Y-%m-%d %H:%M} UTC"),
        ("Content hash", version.content_hash),
    ]
    lines = [f"| {label} | {_in_a_cell(text)} |" for label, text in facts if text]
    about = f"\n{_in_a_cell(version.dataset.description)}\n" if version.dataset.description else ""
    table = "\n".join(["| | |", "|---|---|", *lines])
    note = f"In Parquet files the columns {', '.join(JSON_TEXT)} and `arguments` of tool calls hold JSON text."
    return f"---\n{head}---\n\n# {_in_a_cell(version.dataset.name)}\n{about}\n{table}\n\n{note}\n"


def _in_a_cell(text: str) -> str:
    """Text that a person wrote, on one line, with nothing in it that Markdown or HTML would act on."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#!~" else character for character in escaped)


def pull(transfer: HubTransfer, token: str | None) -> None:
    """Import the dataset's rows as the next version, or keep them until somebody said how to read them. Raises RecipeError."""
    found = hub.find_files(transfer.repo_id, config=transfer.config, revision=transfer.revision, token=token)
    splits = found.splits
    if transfer.split:
        if transfer.split not in splits:
            raise ConfigError(
                f"{transfer.repo_id} has no split {transfer.split!r}. It has: {', '.join(splits)}.", path=("split",)
            )
        splits = {transfer.split: splits[transfer.split]}
    check_names(splits)
    source = f"{transfer.repo_id}@{found.commit[:12]}"
    with tempfile.TemporaryDirectory(dir=settings.FILE_UPLOAD_TEMP_DIR) as folder:
        merged: dict[str, SpilledFile] = {}
        for split, names in splits.items():
            merged[split] = _merged(transfer, names, Path(folder), found.commit, token)
        if len(merged) == 1:
            _import_one(transfer, next(iter(merged.values())), source)
        else:
            _import_splits(transfer, merged, source)


def _merged(transfer: HubTransfer, names: list[str], folder: Path, commit: str, token: str | None) -> SpilledFile:
    """The rows of some files, in any of the formats, as one JSONL; each file is gone once it is read."""
    merged = SpilledFile("hub.jsonl")
    for name in names:
        transfer.alive()
        path = hub.fetch_file(transfer.repo_id, name, commit=commit, folder=folder, token=token)
        for number, row, place in scan(path, sniff(path, name)):
            if isinstance(row, DataError):
                raise DataError(f"{name}: {row}", line=row.line, field=row.field, found=row.found, expected=row.expected)
            refuse_unstorable(row, At(number, f"{name}, {place}"))
            merged.stream.write(canonical_line(row))
        path.unlink()
    merged.finish()
    return merged


def _import_one(transfer: HubTransfer, rows: SpilledFile, source: str) -> None:
    where: dict[str, Any] = {
        "user": transfer.created_by,
        "project": transfer.project,
        "name": transfer.dataset_name,
        "description": "",
    }
    path = Path(rows.temporary_file_path())
    try:
        try:
            transfer.version = actions.import_dataset(**where, path=path, source=source).version
        except ReadingNeeded as why:
            if not (transfer.convert and why.proposal.reading):
                raise
            transfer.version = actions.import_dataset(**where, path=path, source=source, reading=why.proposal.reading).version
    except (ReadingNeeded, RowsRefused) as why:
        transfer.staged = actions.stage_upload(**where, upload=rows, filename=source.replace("/", " "), why=why)


def _import_splits(transfer: HubTransfer, merged: dict[str, SpilledFile], source: str) -> None:
    reading = propose(Path(next(iter(merged.values())).temporary_file_path()), "hub.jsonl").reading
    one = "Import one split at a time: you are then asked which column is what."
    if reading is None:
        raise ConfigError(f"The format of these rows is not known. {one}", path=("split",))
    if reading.conversion and not transfer.convert:
        raise ConfigError(f"These rows look like {reading.title}. Agree to convert them, or name one split.", path=("convert",))
    transfer.version = actions.publish_splits(
        user=transfer.created_by,
        project=transfer.project,
        name=transfer.dataset_name,
        splits={split: _converted(file, split, reading, transfer.alive) for split, file in merged.items()},
        row_format=reading.format,
        source=source,
    ).version


def _converted(file: SpilledFile, split: str, reading: Reading, alive: Callable[[], None]) -> Iterator[Row]:
    with Path(file.temporary_file_path()).open("rb") as stream:
        for number, row, _ in scan_jsonl(stream):
            if number % 10_000 == 0:
                alive()
            if isinstance(row, DataError):
                raise row
            yield reading.convert(row, At(number, f"split {split}, row"))
