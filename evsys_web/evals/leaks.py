"""Which tasks of an eval the model has been trained on, as far as this dashboard knows where its weights come from.

A task is leaked when its prompt, or the task itself by benchmark and id, stands in the training rows of the run that saved the
checkpoint, or of a run that one went on from. Only the rows that were trained on count: the train split where there is one.
"The same prompt" is `recipes.prompts`'. Nothing is claimed about base models, nor about attempts that were made elsewhere.

The keys of a version's rows are read once, in one pass and 8 bytes a row, and kept beside the datasets by their content.
"""

from __future__ import annotations

import io
import logging
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from numpy.typing import NDArray

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.errors import RecipeError
from recipes.prompts import learnt, prompt_key, task_key
from recipes.types import Row, Task

logger = logging.getLogger(__name__)

KEYS_FORMAT = 1
"""Part of the name under which keys are kept: another number whenever `recipes.prompts` means something else by "the same"."""
LONGEST_CHAIN = 100

Keys = NDArray[np.uint64]


class Lesson(NamedTuple):
    """What one run was trained on."""

    run: TrainingRun
    version: DatasetVersion
    split: str | None


@dataclass(frozen=True, slots=True)
class Past:
    """lessons: newest first. unknown: sentences, each on why more may have been learnt than can be told."""

    lessons: list[Lesson] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


class Trained(NamedTuple):
    """A source of leaks as a person may see it: None for what is gone, or not theirs to see."""

    run: TrainingRun | None
    version: DatasetVersion | None
    split: str
    num_tasks: int


@dataclass(frozen=True, slots=True)
class Leaks:
    """tasks: ids of the leaked ones. sources: one entry per lesson that holds any of them, as JSON. Numbers only: whoever reads
    an eval need not be allowed to see the run that trained its model, nor to read its name."""

    tasks: frozenset[str]
    sources: list[dict[str, Any]]
    unknown: list[str]

    def as_json(self) -> dict[str, Any]:
        return {"num_tasks": len(self.tasks), "sources": self.sources, "unknown": self.unknown}


def find_leaks(run: EvalRun, tasks: Sequence[Task]) -> Leaks:
    """Reads the training rows of a version that was not met before, which takes about a minute per million."""
    past = past_of(run)
    leaked: set[str] = set()
    sources = []
    benchmark = run.benchmark.name if run.benchmark is not None else run.dataset_reference
    for lesson in past.lessons:
        learnt_here = known_to(tasks, training_keys(lesson.version, lesson.split), benchmark)
        if learnt_here:
            leaked |= learnt_here
            sources.append(
                {
                    "run": lesson.run.pk,
                    "version": lesson.version.pk,
                    "split": lesson.split or "",
                    "num_tasks": len(learnt_here),
                }
            )
    return Leaks(frozenset(leaked), sources, past.unknown)


def known_to(tasks: Iterable[Task], keys: Keys, benchmark: str) -> set[str]:
    """Ids of the tasks whose prompt or name is among the keys."""
    listed = list(tasks)
    prompts = [prompt_key(task.messages) for task in listed]
    is_known = _among(keys, [key or 0 for key in prompts]) & np.array([key is not None for key in prompts], dtype=bool)
    is_known |= _among(keys, [task_key(benchmark, task.task_id) for task in listed])
    return {task.task_id for task, known in zip(listed, is_known, strict=True) if known}


def trained_by(run: EvalRun, user: User) -> list[Trained]:
    """What taught the model this run's leaked tasks."""
    sources: list[dict[str, Any]] = run.leaks.get("sources", [])
    if not sources:
        return []
    runs = TrainingRun.objects.visible_to(user).in_bulk([source["run"] for source in sources])
    versions = DatasetVersion.objects.visible_to(user).select_related("dataset").in_bulk([each["version"] for each in sources])
    return [
        Trained(runs.get(source["run"]), versions.get(source["version"]), source["split"], source["num_tasks"])
        for source in sources
    ]


def past_of(run: EvalRun) -> Past:
    """Every run that the sampled weights went through, back to a base model."""
    past = Past()
    if run.is_imported:
        return past
    if run.config.get("endpoint"):
        past.unknown.append("A server answers: what its model was trained on cannot be known, so no task is taken for leaked.")
    elif run.checkpoint is not None:
        _follow(run.checkpoint.run, past)
    else:
        _follow(_behind(run.config.get("model") or {}, "checkpoint", past, "are sampled from"), past)
    return past


def past_of_weights(uri: str) -> Past:
    """The same from the address of weights."""
    past = Past()
    _follow(_behind({"checkpoint": uri}, "checkpoint", past, "are sampled from"), past)
    return past


def _follow(run: TrainingRun | None, past: Past) -> None:
    """Write down what this run was trained on, and every run that it went on from."""
    seen: set[int] = set()
    while run is not None and run.pk not in seen and len(seen) < LONGEST_CHAIN:
        seen.add(run.pk)
        if run.dataset_version is not None:
            past.lessons.append(Lesson(run, run.dataset_version, _split(run)))
        else:
            why = "its dataset was deleted" if run.dataset_reference else "it was trained elsewhere"
            past.unknown.append(f"What run {run.pk} was trained on is not known here: {why}.")
        run = _behind(run.config.get("model") or {}, "init_from_checkpoint", past, f"run {run.pk} began from")


def _behind(model: Mapping[str, Any], key: str, past: Past, what: str) -> TrainingRun | None:
    """The run that made the weights which a config's model begins from; None for a base model, about which nothing is claimed."""
    weights = str(model.get(key) or "")
    name = str(model.get("name") or "")
    is_folder = Path(name).is_absolute()
    if not weights and not is_folder:
        return None
    run = _run_of(weights or name)
    if run is None:
        past.unknown.append(f"What the weights that {what} were trained on before is not known here.")
    return run


def _run_of(weights: str) -> TrainingRun | None:
    """By the checkpoint of that address, or by the run in whose folder they lie."""
    checkpoint = Checkpoint.objects.filter(sampler_uri=weights).select_related("run__dataset_version__dataset").first()
    if checkpoint is not None:
        return checkpoint.run
    root, folder = Path(settings.RUNS_DIR).resolve(), Path(weights).expanduser().resolve()
    if not folder.is_relative_to(root) or not (parts := folder.relative_to(root).parts) or not parts[0].isdecimal():
        return None
    found: TrainingRun | None = TrainingRun.objects.filter(pk=int(parts[0])).select_related("dataset_version__dataset").first()
    return found


def training_keys(version: DatasetVersion, split: str | None) -> Keys:
    """(K,) sorted keys of what the version's rows (or a split's) teach. Read from its rows the first time."""
    name = f"prompts/{KEYS_FORMAT}-{version.content_hash}-{sha256((split or '').encode()).hexdigest()[:8]}.npy"
    if default_storage.exists(name):
        try:
            with default_storage.open(name) as file:
                kept: Keys = np.load(io.BytesIO(file.read()), allow_pickle=False)
                return kept
        except (OSError, ValueError):
            logger.warning("%s cannot be read; it is made again", name)
            default_storage.delete(name)
    keys = _keys_of(version.read_rows(split))
    content = io.BytesIO()
    np.save(content, keys, allow_pickle=False)
    default_storage.save(name, ContentFile(content.getvalue()))
    return keys


def shared_tasks(version_a: DatasetVersion, version_b: DatasetVersion, *, most: int | None = None) -> list[str]:
    """Ids of the tasks of version_b whose prompt, or whose name under the same benchmark, version_a holds; `most`: the first so
    many. What was learnt from one says nothing honest about the other when there are any."""
    keys = training_keys(version_a, None)
    found: list[str] = []
    rows = version_b.read_rows()
    while batch := list(islice(rows, 2000)):
        tasks = [Task.of(row) for row in batch if "task_id" in row]
        known = known_to(tasks, keys, version_b.reference)
        found += [task.task_id for task in tasks if task.task_id in known]
        if most is not None and len(found) >= most:
            return found[:most]
    return found


def _split(run: TrainingRun) -> str | None:
    assert run.dataset_version is not None
    try:
        return run.dataset_version.training_split((run.config.get("data") or {}).get("split"))
    except RecipeError:
        return None  # named otherwise since: all rows, rather than none


def _keys_of(rows: Iterator[Row]) -> Keys:
    found = array("Q", chain.from_iterable(map(learnt, rows)))
    return np.unique(np.frombuffer(found, dtype=np.uint64)) if found else np.empty(0, dtype=np.uint64)


def _among(keys: Keys, asked: Collection[int]) -> NDArray[np.bool_]:
    """Which of the asked are in the sorted keys."""
    wanted = np.fromiter(asked, np.uint64, len(asked))
    if not len(keys):
        return np.zeros(len(wanted), dtype=bool)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[places] == wanted)
