"""Bringing in attempts that were made elsewhere: checked whole first, then written in batches as an eval run like any other.

Writing everything in one transaction would keep all other writers waiting for as long as a large file takes. The eval run is
a draft until its last attempt is written, and gone again if that fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

from django.db import connection, transaction

from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.models import Project, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.evals.models import Attempt, Benchmark, EvalRun, EvalTask
from evsys_web.evals.recorder import UPDATE_TASK, Counter, attempt_row, prompt_of
from evsys_web.runs.work import storable, storable_json
from recipes.errors import ConfigError, DataError
from recipes.evals.imports import ImportedAttempt, ImportReport, Source, check, read_attempts, recognise
from recipes.evals.metrics import summarise

BATCH = 500
FORMAT_WORDS = {"jsonl": "JSONL", "lm_eval": "lm-evaluation-harness", "rllm": "rLLM", "inspect": "Inspect AI"}


class AttemptsRefused(DataError):
    """Some attempts are bad, or there is none. `report` counts and lists the refusals."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        self.clash = ""
        if report.clashing_models:
            held = _counts(report.models | report.clashing_models)
            self.clash = f"The file holds the same attempts by several models, {held}: choose the one to import."
        if not report.refused:
            others = f" Passed over {sum(report.passed_over.values()):,}: {'; '.join(report.passed_over)}."
            held = f" The file holds attempts by {_counts(report.other_models)}." if any(report.other_models) else ""
            super().__init__(f"There is no attempt to import.{others if report.passed_over else ''}{held}")
            return
        first = report.refused[0]
        more = f" And {report.num_refused - 1:,} more refused." if report.num_refused > 1 else ""
        super().__init__(
            f"{first}{more}{self.clash and f' {self.clash}'}",
            line=first.line,
            field=first.field,
            found=first.found,
            expected=first.expected,
        )


class ImportedRun(NamedTuple):
    run: EvalRun
    report: ImportReport


def import_attempts(
    *,
    user: User,
    project: Project,
    path: Path,
    filename: str = "",
    name: str = "",
    benchmark: Benchmark | None = None,
    model_label: str = "",
    only_model: str = "",
    trajectory: str = "",
    leave_out_bad: bool = False,
) -> ImportedRun:
    """Make an eval run of the attempts in a file or folder. Empty name and model_label are taken from the file.

    Raises PermissionDenied; ConfigError for a name, benchmark or trajectory; DataError for what holds no attempts;
    AttemptsRefused, with nothing imported, when some are bad and may not be left out."""
    require_editor(user, project)
    if benchmark is not None and benchmark.project_id != project.pk:
        raise ConfigError("This benchmark belongs to another project.", path=("benchmark",))
    source = recognise(path, filename)._replace(only_model=only_model, trajectory=trajectory.strip())
    name = storable(name.strip() or Path(source.filename).stem or "import")[:200]
    report = check(source)
    if not report.num_attempts or (report.num_refused and not leave_out_bad):
        raise AttemptsRefused(report)
    run = EvalRun.objects.create(
        project=project,
        created_by=user,
        name=name,
        benchmark=benchmark,
        dataset_version=benchmark.dataset_version if benchmark else None,
        dataset_reference=benchmark.dataset_reference if benchmark else "",
        model_label=storable(model_label.strip() or _models(report))[:400],
        k=report.attempts_per_task,
        is_imported=True,
        source=f"{FORMAT_WORDS[source.format]}: {storable(Path(source.filename).name)}"[:300],
        num_tasks=report.num_tasks,
    )
    with ExitStack() as undo:
        undo.callback(run.delete)
        counters = _fill(run, source, report)
        with transaction.atomic():
            _complete(run, report, counters)
            record(user, "imported", run, after=facts(run))
        undo.pop_all()
    return ImportedRun(run, report)


def _models(report: ImportReport) -> str:
    named = [model for model in report.models if model]
    if len(named) > 1:
        return f"{len(named)} models: {', '.join(named)}"
    return named[0] if named else "unknown model"


def mixed_models(report: ImportReport) -> str:
    """A sentence where an eval's numbers are of no single model; else nothing."""
    if sum(map(bool, report.models)) < 2:
        return ""
    return (
        f"Its numbers are of several models together: {_counts(report.models)}. For those of one alone, import the file again "
        "and name it under “Only attempts by”."
    )


def _counts(models: Mapping[str, int]) -> str:
    return ", ".join(f"{model or 'an unknown model'} ({number:,})" for model, number in models.items())


def _fill(run: EvalRun, source: Source, report: ImportReport) -> list[Counter]:
    positions = {task_id: position for position, task_id in enumerate(report.tasks, start=1)}
    counters: dict[str, Counter] = {}
    for batch in _batches(read_attempts(source, on_error="skip")):
        with transaction.atomic():
            _make_tasks(run, batch, positions, counters)
            rows = [attempt_row(run, counters[item.result.task_id].pk, item.result) for item in batch]
            Attempt.objects.bulk_create(rows)
        for item in batch:
            task_id = item.result.task_id
            counters[task_id] = counters[task_id].plus(item.result, replaces_error=False)
    if sum(each.n + each.num_errors for each in counters.values()) != report.num_attempts:
        raise DataError(f"{source.filename} changed while it was read. Nothing was imported; try again.")
    return list(counters.values())


def _complete(run: EvalRun, report: ImportReport, counters: Sequence[Counter]) -> None:
    statement = UPDATE_TASK.format(table=connection.ops.quote_name(EvalTask._meta.db_table))
    with connection.cursor() as cursor:
        cursor.executemany(statement, [counter.row(0) for counter in counters])
    run.note(_sentence(report))
    if mixed := mixed_models(report):
        run.note(storable(mixed), level="warning")
    num_done, num_errors = sum(each.n for each in counters), sum(each.num_errors for each in counters)
    run.imported(num_done=num_done, num_errors=num_errors, summary=summarise([counter.count() for counter in counters]).as_json())


def _batches(attempts: Iterator[ImportedAttempt]) -> Iterator[list[ImportedAttempt]]:
    while batch := list(islice(attempts, BATCH)):
        yield batch


def _make_tasks(run: EvalRun, batch: Iterable[ImportedAttempt], positions: dict[str, int], counters: dict[str, Counter]) -> None:
    """Rows for the tasks that this batch is the first to name."""
    new: dict[str, EvalTask] = {}
    for item in batch:
        task_id = item.result.task_id
        if task_id in counters or task_id in new:
            continue
        if task_id not in positions:
            raise DataError(f"The file changed while it was read: task {task_id[:80]!r} is new. Nothing was imported; try again.")
        asked = list(takewhile(lambda message: message.get("role") != "assistant", item.result.messages))
        new[task_id] = EvalTask(
            eval_run=run,
            position=positions[task_id],
            task_id=storable(task_id),
            prompt=prompt_of(asked),
            answer=storable_json(item.answer),
        )
    EvalTask.objects.bulk_create(new.values())
    counters |= {task_id: Counter(task.pk, task_id) for task_id, task in new.items()}


def counted(number: int, noun: str) -> str:
    """3,000 attempts, 1 attempt."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentence(report: ImportReport) -> str:
    parts = [f"Imported {counted(report.num_attempts, 'attempt')} at {counted(report.num_tasks, 'task')}"]
    if report.num_refused:
        parts.append(f"{report.num_refused:,} refused and left out, the first: {report.refused[0]}")
    parts += [f"passed over {number:,}: {reason}" for reason, number in report.passed_over.items()]
    return storable("; ".join(parts))
