"""Brings in a cycle that was exported elsewhere: datasets, benchmarks, evals, curations, runs with their weights, and the cycle.

Evals are imported ones and runs external ones, so that nothing takes them up again. What the archive says of who got better is
not believed: the rounds are judged anew from their attempts. If anything fails, all but datasets and benchmarks is taken back
(those are known by content, and may have been here before).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils.timezone import is_aware

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.cycles.archive import (
    BASELINE,
    WEIGHTS,
    CheckpointRecord,
    CurationRecord,
    EvalRecord,
    RoundRecord,
    RunRecord,
    SideRecord,
    round_file,
    tasks_file,
)
from evsys_web.cycles.archive_file import ArchiveFile, opened
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.cycles.rounds import judge
from evsys_web.datasets.actions import import_dataset, publish_splits
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import benchmark_of
from evsys_web.evals.import_actions import import_attempts
from evsys_web.evals.models import Attempt, Benchmark, EvalRun
from evsys_web.runs import metrics
from evsys_web.runs.backends import with_consents, without_consents
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.status import Status
from evsys_web.runs.work import storable, storable_json
from recipes.config import validated
from recipes.curation import CurationSettings
from recipes.cycle_config import CycleConfig, TasksChoice
from recipes.errors import DataError
from recipes.eval_config import VerifierChoice
from recipes.evals.metrics import summarise
from recipes.jsonl import scan_jsonl
from recipes.rows import RowFormat

BATCH = 500


def import_cycle(*, user: User, project: Project, path: Path) -> Cycle:
    """Raises PermissionDenied; DataError or ConfigError with a sentence for what cannot be used; then no part of it is left."""
    require_editor(user, project)
    with opened(path) as archive, ExitStack() as undo:
        cycle = _Importer(archive, user, project, undo).cycle()
        record(user, "imported", cycle, after=facts(cycle))
        undo.pop_all()
    return cycle


class _Importer:
    def __init__(self, archive: ArchiveFile, user: User, project: Project, undo: ExitStack) -> None:
        self._archive, self._user, self._project, self._undo = archive, user, project, undo
        self._record = archive.manifest
        self._config = CycleConfig.from_values(_with_consent(self._record.config, True))
        self._refuse_incomplete()

    def cycle(self) -> Cycle:
        record = self._record
        learn, judging = self._benchmark("learn", record.learn), self._benchmark("judge", record.judge)
        sides = {"learn": _spelled_out(learn, self._config.learn), "judge": _spelled_out(judging, self._config.judge)}
        baseline = self._eval(BASELINE, record.baseline, judging)
        cycle: Cycle = Cycle.objects.create(
            project=self._project,
            created_by=self._user,
            name=storable(record.name),
            config=_with_consent(self._config.model_copy(update=sides).model_dump(mode="json"), False),
            learn=learn,
            judge=judging,
            status=record.status,
            error=storable(record.error),
            stage=record.stage,
            round_number=record.round_number,
            reason=record.reason,
            baseline=baseline,
            num_tokens=record.num_tokens,
            num_seconds=record.num_seconds,
            started_at=_at(record.started_at),
            finished_at=_at(record.finished_at),
        )
        self._undo.callback(cycle.delete)
        for number, each in enumerate(record.rounds, start=1):
            self._round(cycle, number, each, learn, judging)
        with transaction.atomic():
            cycle.note("Imported: every part was made elsewhere, and the rounds were judged anew here.")
        return cycle

    def _round(self, cycle: Cycle, number: int, record: RoundRecord, learn: Benchmark, judging: Benchmark) -> None:
        eval_run = self._eval(round_file(number, "attempts.jsonl"), record.attempts, learn)
        curation = self._curation(number, record.curation, eval_run)
        run, checkpoint = self._run(number, record.run, curation.dataset_version if curation else None)
        judged = self._eval(round_file(number, "held_out.jsonl"), record.held_out, judging)
        parts = {"eval_run": eval_run, "curation": curation, "training_run": run, "checkpoint": checkpoint, "judged": judged}
        began = {"started_at": at} if (at := _at(record.started_at)) else {}
        made = CycleRound.objects.create(cycle=cycle, number=number, finished_at=_at(record.finished_at), **began, **parts)
        if judged is not None:
            made.finding, made.gained = judge(cycle, made)
            made.save(update_fields=["finding", "gained"])

    def _refuse_incomplete(self) -> None:
        """Before anything is made."""
        record, named = self._record, [tasks_file("learn"), tasks_file("judge")]
        named += [BASELINE] if record.baseline else []
        for number, each in enumerate(record.rounds, start=1):
            wanted = {
                "attempts.jsonl": each.attempts,
                "rows.jsonl": each.curation,
                "metrics.jsonl": each.run,
                "held_out.jsonl": each.held_out,
            }
            named += [round_file(number, name) for name, part in wanted.items() if part is not None]
            for file in each.run.checkpoint.files if each.run and each.run.checkpoint else []:
                if not WEIGHTS.fullmatch(file):
                    raise DataError(f"{file[:100]!r} is no file of weights: safetensors, and JSON or text beside it.")
                named.append(round_file(number, f"adapter/{file}"))
        if missing := [name for name in named if not self._archive.has(name)]:
            raise DataError(f"The zip lacks {missing[0]}. Export the cycle again.")

    def _benchmark(self, side: str, record: SideRecord) -> Benchmark:
        user, project, path = self._user, self._project, self._archive.take(tasks_file(side))
        filename = f"{side}.jsonl"
        version = import_dataset(user=user, project=project, name=record.dataset, path=path, filename=filename).version
        free = not Benchmark.objects.filter(project=project, name=record.benchmark).exists()
        name = storable(record.benchmark) if free else ""
        return benchmark_of(user=user, project=project, dataset_version=version, verifier=record.verifier, name=name)

    def _eval(self, name: str, record: EvalRecord | None, benchmark: Benchmark) -> EvalRun | None:
        if record is None:
            return None
        run = import_attempts(
            user=self._user,
            project=self._project,
            path=self._archive.take(name),
            filename=Path(name).name,
            name=record.name,
            benchmark=benchmark,
            model_label=record.model,
        ).run
        self._undo.callback(run.delete)
        values: dict[str, Any] = {"started_at": _at(record.started_at), "finished_at": _at(record.finished_at)}
        EvalRun.objects.filter(pk=run.pk).update(source="a cycle made elsewhere", **values, **_leaks(run, record.leaked))
        run.refresh_from_db()
        return run

    def _curation(self, number: int, record: CurationRecord | None, eval_run: EvalRun | None) -> Curation | None:
        if record is None:
            return None
        path = self._archive.take(round_file(number, "rows.jsonl"))
        splits: dict[str, int | None] = {split.name: split.num_rows for split in record.splits}
        with path.open("rb") as stream:
            rows = _objects(stream)
            version = publish_splits(
                user=self._user,
                project=self._project,
                name=record.dataset,
                splits={name: islice(rows, count) for name, count in (splits or {"train": None}).items()},
                row_format=RowFormat.MESSAGES,
                description="Rows of a cycle that was imported.",
            ).version
        values = validated(CurationSettings, record.settings, ("curation",)).model_dump(mode="json")
        runs = [eval_run] if eval_run else []
        fingerprint = hashlib.sha256(json.dumps([values, [run.pk for run in runs]], sort_keys=True).encode()).hexdigest()
        curation = Curation.objects.create(
            project=self._project,
            created_by=self._user,
            name=storable(record.name),
            settings=values,
            sources=[_source(run) for run in runs],
            dataset_version=version,
            dataset_reference=version.reference,
            fingerprint=fingerprint,
            counts=storable_json(record.counts),
        )
        self._undo.callback(curation.delete)
        curation.eval_runs.set(runs)
        if eval_run is not None and not CuratedRow.objects.filter(version=version).exists():
            self._origins(number, version, eval_run)
        return curation

    def _origins(self, number: int, version: DatasetVersion, eval_run: EvalRun) -> None:
        """What names no attempt that came along is left out: a row without a known origin is still a row."""
        name = round_file(number, "origins.jsonl")
        if not self._archive.has(name):
            return
        found = Attempt.objects.filter(eval_run=eval_run).values_list("task__task_id", "attempt", "task_id", "pk")
        known = {(task_id, attempt): (task, pk) for task_id, attempt, task, pk in found}
        with self._archive.take(name).open("rb") as stream:
            made = (_curated(version, eval_run, row, known) for row in _objects(stream))
            rows = {row.position: row for row in made if row is not None and row.position < version.num_rows}
        CuratedRow.objects.bulk_create(rows.values(), batch_size=BATCH)

    def _run(
        self, number: int, record: RunRecord | None, version: DatasetVersion | None
    ) -> tuple[TrainingRun | None, Checkpoint | None]:
        if record is None:
            return None, None
        run: TrainingRun = TrainingRun.objects.create(
            project=self._project,
            created_by=self._user,
            name=storable(record.name),
            dataset_version=version,
            dataset_reference=version.reference if version else "",
            config=storable_json(record.config),
            is_external=True,
            status=Status.COMPLETED,
            step=record.step,
            num_steps=record.num_steps,
            started_at=_at(record.started_at),
            finished_at=_at(record.finished_at),
        )
        self._undo.callback(shutil.rmtree, run.output_dir, ignore_errors=True)
        self._undo.callback(run.delete)
        with self._archive.take(round_file(number, "metrics.jsonl")).open("rb") as stream:
            _write_points(run, map(_point, _objects(stream)))
        return run, self._checkpoint(number, run, record.checkpoint)

    def _checkpoint(self, number: int, run: TrainingRun, record: CheckpointRecord | None) -> Checkpoint | None:
        if record is None:
            return None
        folder = run.output_dir / "checkpoints" / record.name / "sampler"
        if record.files:
            folder.mkdir(parents=True)
        for file in record.files:
            self._archive.take(round_file(number, f"adapter/{file}"), folder / file)
        uri = str(folder) if record.files else ""
        values = {"step": record.step, "sampler_uri": uri, "metrics": storable_json(record.metrics)}
        checkpoint: Checkpoint = Checkpoint.objects.create(run=run, seq=run.next_seqs(1), name=record.name, **values)
        return checkpoint


def _with_consent(values: dict[str, Any], is_given: bool) -> dict[str, Any]:
    """A price that somebody agreed to elsewhere, for serving or for training, is agreed to by nobody here."""
    values = with_consents(values) if is_given else without_consents(values)
    serving = values.get("serving")
    return values | {"serving": serving | {"accept_billing": is_given}} if isinstance(serving, dict) else values


def _spelled_out(benchmark: Benchmark, choice: TasksChoice) -> TasksChoice:
    verifier = VerifierChoice.model_validate(benchmark.verifier)
    return TasksChoice(dataset=benchmark.dataset_reference, verifier=verifier, max_tasks=choice.max_tasks)


def _leaks(run: EvalRun, leaked: list[str]) -> dict[str, Any]:
    """Mark these tasks, and give the eval's numbers without them, as its recorder does."""
    ids, num_marked = iter(leaked), 0
    while batch := list(islice(ids, BATCH)):
        num_marked += run.tasks.filter(task_id__in=batch).update(is_leaked=True)
    if not num_marked:
        return {}
    summary = summarise(run.task_counts()).as_json() | {"all": run.summary}
    return {"summary": summary, "leaks": {"num_tasks": num_marked, "sources": [], "unknown": []}}


def _source(run: EvalRun) -> dict[str, Any]:
    benchmark = run.benchmark.name if run.benchmark else run.dataset_reference
    return {
        "eval_run": run.pk,
        "name": run.name,
        "model": run.model_label,
        "benchmark": benchmark,
        "k": run.k,
        "last_seq": run.last_seq,
    }


def _curated(version: DatasetVersion, run: EvalRun, row: dict[str, Any], known: dict[Any, tuple[int, int]]) -> CuratedRow | None:
    position, number, score = row.get("position"), row.get("attempt"), row.get("score")
    found = known.get((str(row.get("task_id")), number)) if isinstance(number, int) else None
    if (
        found is None
        or not isinstance(number, int)
        or isinstance(position, bool)
        or not isinstance(position, int)
        or position < 0
    ):
        return None
    score = float(score) if isinstance(score, int | float) else None
    split = str(row.get("split", ""))[:20]
    return CuratedRow(
        version=version,
        position=position,
        split=split,
        eval_run=run,
        task_id=found[0],
        attempt_id=found[1],
        number=number,
        score=score,
    )


def _objects(stream: Any) -> Iterator[dict[str, Any]]:
    """Raises DataError at the first bad line."""
    for _, row, _ in scan_jsonl(stream):
        if isinstance(row, DataError):
            raise row
        yield row


def _point(row: dict[str, Any]) -> Point:
    step, at, values = row.get("step"), row.get("at"), row.get("metrics")
    try:
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53 or not isinstance(values, dict):
            raise ValueError
        return Point(step, _at(datetime.fromisoformat(str(at))) or datetime.now().astimezone(), metrics.checked(values))
    except ValueError:
        raise DataError(f"A line of metrics.jsonl is no point: {str(row)[:100]}.") from None


def _write_points(run: TrainingRun, points: Iterable[Point]) -> None:
    """In short transactions, as an import of attempts does it."""
    waiting = iter(points)
    while batch := list(islice(waiting, BATCH)):
        with transaction.atomic():
            metrics.write(run, enumerate(batch, run.next_seqs(len(batch))))
    metrics.fold(run)


def _at(at: datetime | None) -> datetime | None:
    """A time that says no zone is taken for UTC."""
    return at if at is None or is_aware(at) else at.astimezone()
