"""A cycle as a zip: everything that was made, in formats that need no program of ours, written while it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from evsys_web.attachments import ZipEntry, read_chunks, zip_entries
from evsys_web.curation.models import CuratedRow
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.archive import (
    BASELINE,
    CONFIG,
    MANIFEST,
    README,
    WEIGHTS,
    Archive,
    CheckpointRecord,
    CurationRecord,
    EvalRecord,
    RoundRecord,
    RunRecord,
    SideRecord,
    round_file,
    tasks_file,
)
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import Attempt, Benchmark, EvalRun, EvalTask
from evsys_web.runs import metrics
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.downloads import csv_chunks, files_of, folder_within
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.recorder import as_json
from evsys_web.runs.snippets import yaml_of
from recipes.config import RunConfig
from recipes.cycle_config import CycleConfig

CHUNK = 500


def export_cycle(cycle: Cycle) -> Iterator[bytes]:
    """The zip, piece by piece. Raises RunRefused, before the first piece, for a cycle that has not ended or lacks its tasks."""
    if not cycle.has_ended:
        raise RunRefused("This cycle has not ended yet. Export it when it has.")
    if not all(side is not None and side.dataset_version is not None for side in (cycle.learn, cycle.judge)):
        raise RunRefused("The tasks of this cycle were deleted, so that it cannot be exported any more.")
    return zip_entries(_entries(cycle, list(cycle.rounds.all())))


def _entries(cycle: Cycle, rounds: list[CycleRound]) -> Iterator[ZipEntry]:
    yield ZipEntry(README, [_readme(cycle)])
    yield ZipEntry(MANIFEST, [record_of(cycle, rounds).model_dump_json(indent=1).encode()])
    yield ZipEntry(CONFIG, [yaml_of(CycleConfig, cycle.config).encode()])
    for side, benchmark in (("learn", cycle.learn), ("judge", cycle.judge)):
        assert benchmark is not None and benchmark.dataset_version is not None
        yield ZipEntry(tasks_file(side), _lines(benchmark.dataset_version.read_rows()))
    if cycle.baseline is not None:
        yield ZipEntry(BASELINE, _lines(_attempts(cycle.baseline)))
    for round_ in rounds:
        yield from _round_entries(round_)


def _round_entries(round_: CycleRound) -> Iterator[ZipEntry]:
    for name, run in (("attempts.jsonl", round_.eval_run), ("held_out.jsonl", round_.judged)):
        if run is not None:
            yield ZipEntry(round_file(round_.number, name), _lines(_attempts(run)))
    if round_.curation is not None and (version := round_.curation.dataset_version) is not None:
        yield ZipEntry(round_file(round_.number, "rows.jsonl"), _lines(version.read_rows()))
        yield ZipEntry(round_file(round_.number, "origins.jsonl"), _lines(_origins(version)))
    if (training := round_.training_run) is None:
        return
    yield ZipEntry(round_file(round_.number, "run.yaml"), [yaml_of(RunConfig, training.config).encode()])
    yield ZipEntry(round_file(round_.number, "metrics.jsonl"), _lines(_points(training)))
    yield ZipEntry(round_file(round_.number, "metrics.csv"), csv_chunks(training))
    for name, path in _weights(round_.checkpoint):
        yield ZipEntry(round_file(round_.number, f"adapter/{name}"), read_chunks(path), is_text=False)


def record_of(cycle: Cycle, rounds: Iterable[CycleRound]) -> Archive:
    assert cycle.learn is not None and cycle.judge is not None
    return Archive.model_validate(
        {
            "name": cycle.name,
            "config": cycle.config,
            "status": cycle.status,
            "stage": cycle.stage,
            "round_number": cycle.round_number,
            "reason": cycle.reason,
            "error": cycle.error,
            "num_tokens": cycle.num_tokens,
            "num_seconds": cycle.num_seconds,
            "started_at": cycle.started_at,
            "finished_at": cycle.finished_at,
            "learn": _side(cycle.learn),
            "judge": _side(cycle.judge),
            "baseline": _eval(cycle.baseline),
            "rounds": [_round(round_) for round_ in rounds],
        }
    )


def _side(benchmark: Benchmark) -> SideRecord:
    assert benchmark.dataset_version is not None
    dataset = benchmark.dataset_version.dataset.name
    return SideRecord(benchmark=benchmark.name, verifier=benchmark.verifier, dataset=dataset)


def _eval(run: EvalRun | None) -> EvalRecord | None:
    if run is None:
        return None
    leaked = list(run.tasks.filter(is_leaked=True).order_by("position").values_list("task_id", flat=True))
    times = {"started_at": run.started_at, "finished_at": run.finished_at}
    return EvalRecord.model_validate(
        {"name": run.name, "model": run.model_label, "config": run.config, "leaked": leaked, **times}
    )


def _round(round_: CycleRound) -> RoundRecord:
    return RoundRecord(
        started_at=round_.started_at,
        finished_at=round_.finished_at,
        attempts=_eval(round_.eval_run),
        curation=_curation(round_),
        run=_run(round_.training_run, round_.checkpoint),
        held_out=_eval(round_.judged),
    )


def _curation(round_: CycleRound) -> CurationRecord | None:
    found = round_.curation
    if found is None or found.dataset_version is None:
        return None
    version = found.dataset_version
    values = {"name": found.name, "settings": found.settings, "counts": found.counts, "splits": version.splits}
    return CurationRecord.model_validate({**values, "dataset": version.dataset.name})


def _run(run: TrainingRun | None, checkpoint: Checkpoint | None) -> RunRecord | None:
    if run is None:
        return None
    files = [name for name, _ in _weights(checkpoint)]
    saved = (
        {"name": checkpoint.name, "step": checkpoint.step, "metrics": checkpoint.metrics, "files": files} if checkpoint else None
    )
    return RunRecord(
        name=run.name,
        config=run.config,
        step=run.step,
        num_steps=run.num_steps,
        started_at=run.started_at,
        finished_at=run.finished_at,
        checkpoint=CheckpointRecord.model_validate(saved) if saved else None,
    )


def _weights(checkpoint: Checkpoint | None) -> list[tuple[str, Path]]:
    """The files to sample from, by name, as an import takes them; none for weights kept elsewhere."""
    folder = folder_within(checkpoint.run, checkpoint.sampler_uri) if checkpoint else None
    if checkpoint is None or folder is None:
        return []
    return [(file.name, folder / file.name) for file in files_of(checkpoint) if WEIGHTS.fullmatch(file.name)]


def _attempts(run: EvalRun) -> Iterator[dict[str, Any]]:
    """In the plain format of `recipes/evals/import_jsonl.py`, task by task."""
    after = 0
    while tasks := list(EvalTask.objects.filter(eval_run=run, position__gt=after).order_by("position")[:CHUNK]):
        by_task: dict[int, list[Attempt]] = {}
        for attempt in Attempt.objects.filter(task__in=tasks).order_by("attempt"):
            by_task.setdefault(attempt.task_id, []).append(attempt)
        for task in tasks:
            for attempt in by_task.get(task.pk, []):
                yield _attempt(task, attempt, run.model_label)
        after = tasks[-1].position


def _attempt(task: EvalTask, attempt: Attempt, model: str) -> dict[str, Any]:
    names = (
        "attempt",
        "reward",
        "is_correct",
        "signals",
        "messages",
        "error",
        "error_kind",
        "num_tokens",
        "seconds",
        "stop_reason",
        "info",
    )
    found = {name: getattr(attempt, name) for name in names}
    return {"task_id": task.task_id, **found, "error": attempt.error or None, "model": model, "answer": task.answer}


def _origins(version: DatasetVersion) -> Iterator[dict[str, Any]]:
    """For each row, in order, which attempt it was."""
    names = ("position", "split", "task__task_id", "number", "score")
    after = -1
    while rows := list(
        CuratedRow.objects.filter(version=version, position__gt=after).order_by("position").values_list(*names)[:CHUNK]
    ):
        for position, split, task_id, number, score in rows:
            yield {"position": position, "split": split, "task_id": task_id, "attempt": number, "score": score}
        after = rows[-1][0]


def _points(run: TrainingRun) -> Iterator[dict[str, Any]]:
    for row in metrics.rows(run):
        yield {"step": row.step, "at": row.at.isoformat(), "metrics": as_json(row.values)}


def _lines(rows: Iterable[Any]) -> Iterator[bytes]:
    waiting: list[str] = []
    for row in rows:
        waiting.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
        if len(waiting) == CHUNK:
            yield ("\n".join(waiting) + "\n").encode()
            waiting = []
    yield ("\n".join(waiting) + "\n").encode() if waiting else b""


def _readme(cycle: Cycle) -> bytes:
    title = " ".join(cycle.name.split())
    return f"""# {title}

{answer_of(cycle).sentence}

A cycle of EvSys Web: a model tries tasks, learns from its own selected attempts, and is asked held-out tasks before and after.

- `manifest.json`: what was made, with all settings; `config.yaml`: the cycle's settings alone, to run it again.
- `tasks/learn.jsonl`, `tasks/judge.jsonl`: the tasks to learn from, and the held-out ones. One JSON object per line.
- `baseline/attempts.jsonl`: the held-out attempts before training. A line is one attempt: task_id, attempt, reward, is_correct,
  messages and more.
- `rounds/<n>/attempts.jsonl`: the attempts to learn from; `rows.jsonl`: those that became training rows; `origins.jsonl`: which
  attempt each row was.
- `rounds/<n>/run.yaml`: the training run's settings; `metrics.jsonl`, `metrics.csv`: every point of it.
- `rounds/<n>/adapter/`: the weights after the round, safetensors with a PEFT config; `PeftModel.from_pretrained` reads it.
- `rounds/<n>/held_out.jsonl`: the held-out attempts after the round.

To look at it elsewhere: Cycles, Import; or `manage.py import_cycle FILE.zip`; or POST it to `/api/v1/cycles/import`.
""".encode()
