"""What a person may take home of a run: checkpoints and points. Only what lies below the run's own folder is ever sent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.http import Http404, StreamingHttpResponse

from evsys_web.attachments import attachment, inert, read_chunks, zip_chunks
from evsys_web.runs import metrics
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.errors import CheckpointError

NUM_CSV_ROWS = 500


class CheckpointFile(NamedTuple):
    """A file to sample from or go on with; name: as a download asks for it."""

    name: str
    num_bytes: int


def files_of(checkpoint: Checkpoint) -> list[CheckpointFile]:
    """Its files on this machine, by name; none for weights kept elsewhere."""
    folder = _folder(checkpoint)
    paths = _files(folder) if folder else []
    return [CheckpointFile(path.relative_to(folder or path).as_posix(), path.stat().st_size) for path in paths]


def checkpoint_files(checkpoint: Checkpoint) -> list[str]:
    """Names of the files to sample from or go on with, such as adapter_model.safetensors; none for weights kept elsewhere."""
    folder = _folder(checkpoint)
    return [path.relative_to(folder).as_posix() for path in _files(folder)] if folder else []


def checkpoint_bytes(checkpoint: Checkpoint) -> int | None:
    """What those files weigh; None for weights kept elsewhere."""
    folder = _folder(checkpoint)
    return sum(path.stat().st_size for path in _files(folder)) if folder else None


def checkpoint_download(checkpoint: Checkpoint, file: str = "") -> StreamingHttpResponse:
    """One file of the checkpoint, or all of them as a zip. Raises Http404, and CheckpointError for weights kept elsewhere."""
    folder = _folder(checkpoint)
    if folder is None:
        raise CheckpointError(
            "The weights of this checkpoint are not on this server: they lie with the provider, or were removed."
        )
    files = _files(folder)
    if not file:
        name = f"run-{checkpoint.run_id}-{checkpoint.name}.zip"
        return attachment(zip_chunks(folder, files), name, content_type="application/zip")
    for path in files:
        if path.relative_to(folder).as_posix() == file:
            response = attachment(read_chunks(path), path.name)
            response["Content-Length"] = str(path.stat().st_size)
            return response
    raise Http404(f"The checkpoint has no file {file!r}.")


def metrics_csv(run: TrainingRun) -> StreamingHttpResponse:
    """Every point: seq, step, time and a column per key; empty where a step did not report the key."""
    return attachment(csv_chunks(run), f"run-{run.pk}-metrics.csv", content_type="text/csv; charset=utf-8")


def csv_chunks(run: TrainingRun) -> Iterator[bytes]:
    """As `metrics_csv` has it."""
    names = metrics.keys(run)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["seq", "step", "at", *(inert(name) for name in names)])
    for number, row in enumerate(metrics.rows(run), 1):
        writer.writerow([row.seq, row.step, row.at.isoformat(), *(row.values.get(name, "") for name in names)])
        if number % NUM_CSV_ROWS == 0:
            yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    data = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return data


def folder_within(run: TrainingRun, uri: str) -> Path | None:
    """The folder that a checkpoint's URI names, if it lies below the run's own and is there."""
    root = run.output_dir.resolve()
    if not uri or "://" in uri:
        return None
    folder = (root / uri).resolve()
    return folder if folder.is_relative_to(root) and folder != root and folder.is_dir() else None


def _folder(checkpoint: Checkpoint) -> Path | None:
    return folder_within(checkpoint.run, checkpoint.sampler_uri or checkpoint.state_uri)


def _files(folder: Path) -> list[Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.resolve().is_relative_to(folder)]
