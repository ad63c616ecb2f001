"""Benchmarks, eval runs, and what came of every attempt. An eval run is work as `runs/work.py` has it.

A task's counters are kept current in the transaction that writes its attempts, so that lists, curves and comparisons are read
from the tasks alone: 20,000 rows instead of 160,000 with whole conversations.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import OwnedQuerySet, User
from evsys_web.runs.status import Status as Status
from evsys_web.runs.work import Work, WorkQuerySet
from recipes.errors import DataError
from recipes.eval_config import EvalConfig
from recipes.evals.metrics import TaskCount
from recipes.types import Task

PROMPT_LENGTH = 300


class Benchmark(models.Model):
    """Tasks and what decides whether a reply is right. Neither changes: numbers of two eval runs are to mean the same."""

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="benchmarks")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True, max_length=2000)
    dataset_version = models.ForeignKey(
        "datasets.DatasetVersion", on_delete=models.SET_NULL, null=True, blank=True, related_name="benchmarks"
    )
    dataset_reference = models.CharField(max_length=300, blank=True, help_text="name@version; outlives the dataset itself.")
    split = models.CharField(max_length=64, blank=True, help_text="Only the tasks of this split; empty for all.")
    verifier = models.JSONField(default=dict, help_text="kind and params.")
    num_tasks = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project", "name"], name="one_benchmark_per_name_and_project")
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("evals:benchmark", args=[self.pk])

    @property
    def verifier_kind(self) -> str:
        return str(self.verifier.get("kind", ""))


class EvalRun(Work):
    """k attempts at each task of a benchmark by one model. `num_done`: attempts with a verdict; `num_errors`: those without.
    `summary`: `recipes.evals.metrics.Summary` as JSON, at most a moment behind the attempts while it runs: over the tasks that
    the model was not trained on, and under "all" over all of them where there are others."""

    DONE_HERE = Q(is_imported=False)
    TASK = "evsys_web.evals.tasks.run_eval"
    LEAVES_BELOW = "evals"
    ABANDONED_AFTER = timedelta(minutes=10)  # a deployment costs while it is there, and a resume makes another

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="eval_runs")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="eval_runs")
    name = models.CharField(max_length=200)
    benchmark = models.ForeignKey(Benchmark, on_delete=models.SET_NULL, null=True, blank=True, related_name="eval_runs")
    dataset_version = models.ForeignKey(
        "datasets.DatasetVersion", on_delete=models.SET_NULL, null=True, blank=True, related_name="eval_runs"
    )
    dataset_reference = models.CharField(max_length=300, blank=True, help_text="name@version; outlives the dataset itself.")
    checkpoint = models.ForeignKey("runs.Checkpoint", on_delete=models.SET_NULL, null=True, blank=True, related_name="eval_runs")
    config = models.JSONField(default=dict, help_text="An EvalConfig, dumped; empty for what was imported.")
    model_label = models.CharField(max_length=400, help_text="What was sampled from, in a word or two.")
    k = models.PositiveIntegerField(default=1, help_text="Attempts per task.")
    is_imported = models.BooleanField(default=False, help_text="Attempts were made elsewhere and brought in.")
    source = models.CharField(max_length=300, blank=True, help_text="Where imported attempts came from, for people to read.")
    cloned_from = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="clones")
    submission_key = models.CharField(max_length=200, blank=True, editable=False, help_text="A form posted twice makes one run.")
    auto_resume = models.BooleanField(default=False, help_text="After a lost worker, go on unasked.")

    num_tasks = models.PositiveIntegerField(default=0, editable=False, help_text="0 until the tasks are read.")
    num_done = models.PositiveIntegerField(default=0, editable=False)
    num_errors = models.PositiveIntegerField(default=0, editable=False)
    summary = models.JSONField(default=dict, editable=False)
    leaks = models.JSONField(default=dict, editable=False, help_text="What the model was trained on before: see leaks.py.")

    objects = WorkQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["created_by", "submission_key"], condition=~Q(submission_key=""), name="one_eval_per_submission"
            )
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "-created_at"]),
            models.Index(fields=["status", "lease_until"]),
            models.Index(fields=["finished_at"], name="eval_by_end"),  # workers look for what ended a moment ago
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("evals:detail", args=[self.pk])

    # what it is

    @property
    def is_done_here(self) -> bool:
        return not self.is_imported

    @property
    def remote_dir(self) -> Path:
        """Where it is written down what it made elsewhere."""
        return Path(settings.RUNS_DIR, "evals", str(self.pk))

    @property
    def can_retry_errors(self) -> bool:
        """Of a run that is not complete, resume tries them again with what is missing."""
        return self.status == Status.COMPLETED and self.num_errors > 0 and self.is_done_here

    @property
    def wants_to_go_on(self) -> bool:
        return bool(self.auto_resume)

    @property
    def num_attempts(self) -> int:
        """As many as there will be: tasks × k."""
        return self.num_tasks * self.k

    @property
    def progress(self) -> float | None:
        """Share of the attempts made, in [0, 1]; None until the tasks are read."""
        return min(1.0, (self.num_done + self.num_errors) / self.num_attempts) if self.num_attempts else None

    @property
    def verifier_kind(self) -> str:
        return str(self.config.get("verifier", {}).get("kind", ""))

    def load_config(self) -> EvalConfig:
        """Validated again: the row may be older than the code. Raises ConfigError."""
        return EvalConfig.from_values(self.config)

    def read_tasks(self) -> Iterator[Task]:
        """The tasks it samples, streamed. Raises DataError when they were deleted meanwhile."""
        if self.dataset_version is None:
            raise DataError(f"The dataset {self.dataset_reference} was deleted, so its tasks cannot be sampled any more.")
        split = self.config.get("data", {}).get("split")
        return (Task.of(row) for row in self.dataset_version.read_rows(split))

    def task_counts(self, *, with_leaked: bool = False) -> list[TaskCount]:
        """What the metrics are computed from, in the order of the tasks; those that trained the model only if asked for."""
        tasks = self.tasks.all() if with_leaked else self.tasks.filter(is_leaked=False)
        rows = tasks.order_by("position").values_list("task_id", "n", "num_correct", "sum_reward", "num_errors")
        return [TaskCount(*row) for row in rows.iterator(chunk_size=5000)]

    @property
    def num_leaked(self) -> int:
        """Tasks that the model was trained on: shown, and left out of the numbers."""
        return int(self.leaks.get("num_tasks", 0))

    # how it changes

    def imported(self, **values: Any) -> bool:
        """draft → completed with these values, for what was brought in whole."""
        brought_in = Q(status=Status.DRAFT, is_imported=True)
        return self._change(brought_in, status=Status.COMPLETED, started_at=None, finished_at=now(), **values)

    def note(self, message: str, *, level: str = "info") -> None:
        EvalEvent.objects.create(eval_run=self, seq=self.next_seqs(1), level=level, message=message)

    def lost_sentence(self) -> str:
        done = f"{self.num_done} of {self.num_attempts or '?'} attempts are kept; resume makes the others."
        return f"The worker was lost (killed, out of memory, or its machine went down). {done}"


class Outcome(models.TextChoices):
    """What came of a task so far. Errors are no wrong answers: a task with a verdict is judged by its verdicts."""

    PENDING = "pending", "Pending"
    SOLVED = "solved", "Solved"
    MIXED = "mixed", "Mixed"
    FAILED = "failed", "Failed"
    ERROR = "error", "Error"


class EvalTask(models.Model):
    """One task of an eval run and what its attempts add up to. position: from 1, in the benchmark's order.
    `accuracy` is num_correct / n, None without a verdict; outcome: see `outcome_of`. `seq`: when it last changed."""

    eval_run = models.ForeignKey(EvalRun, on_delete=models.CASCADE, related_name="tasks", db_index=False)
    position = models.PositiveIntegerField()
    task_id = models.CharField(max_length=300)
    prompt = models.CharField(max_length=PROMPT_LENGTH, blank=True, help_text="How its last message begins.")
    answer = models.JSONField(null=True, help_text="What a reply is compared with.")
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.PENDING)
    n = models.PositiveIntegerField(default=0)
    num_correct = models.PositiveIntegerField(default=0)
    num_errors = models.PositiveIntegerField(default=0)
    sum_reward = models.FloatField(default=0.0)
    accuracy = models.FloatField(null=True)
    num_tokens = models.PositiveBigIntegerField(default=0, help_text="Tokens of all replies together.")
    is_leaked = models.BooleanField(default=False, help_text="The model was trained on it, so it counts for nothing.")
    seq = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering: ClassVar[list[str]] = ["position"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["eval_run", "position"], name="one_task_per_position"),
            models.UniqueConstraint(fields=["eval_run", "task_id"], name="one_task_per_id"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["eval_run", "accuracy", "position"], name="task_by_accuracy"),
            models.Index(fields=["eval_run", "outcome", "position"], name="task_by_outcome"),
            models.Index(fields=["eval_run", "seq"], name="task_by_seq"),
        ]

    def __str__(self) -> str:
        return self.task_id

    def get_absolute_url(self) -> str:
        return reverse("evals:task", args=[self.eval_run_id, self.position])


def outcome_of(n: int, num_correct: int, num_errors: int) -> Outcome:
    """solved: all verdicts right; failed: none; mixed: some; error: nothing but errors; pending: nothing yet."""
    if not n:
        return Outcome.ERROR if num_errors else Outcome.PENDING
    if num_correct == n:
        return Outcome.SOLVED
    return Outcome.MIXED if num_correct else Outcome.FAILED


class Attempt(models.Model):
    """One try at a task, as `recipes.rollouts.AttemptResult` has it. attempt: from 0. Either a verdict, or an error."""

    eval_run = models.ForeignKey(EvalRun, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    task = models.ForeignKey(EvalTask, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    attempt = models.PositiveIntegerField()
    reward = models.FloatField(null=True)
    is_correct = models.BooleanField(null=True)
    signals = models.JSONField(default=dict)
    info = models.JSONField(default=dict)
    messages = models.JSONField(default=list, help_text="The whole conversation, the reply last.")
    num_prompt_tokens = models.PositiveIntegerField(default=0)
    num_tokens = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0.0)
    stop_reason = models.CharField(max_length=100, blank=True)
    error = models.TextField(blank=True)
    error_kind = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering: ClassVar[list[str]] = ["attempt"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["eval_run", "task", "attempt"], name="one_row_per_attempt")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["task"], name="attempt_by_task"),
            models.Index(fields=["eval_run", "error_kind"], condition=~Q(error_kind=""), name="attempt_in_error"),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}:{self.attempt}"


class EvalEvent(models.Model):
    """Something a person should read about an eval run."""

    eval_run = models.ForeignKey(EvalRun, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    at = models.DateTimeField(default=now)
    level = models.CharField(max_length=10, default="info")
    message = models.TextField()

    class Meta:
        ordering: ClassVar[list[str]] = ["seq"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["eval_run", "seq"], name="one_eval_event_per_seq")
        ]

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def visible_eval(user: User, pk: int) -> EvalRun:
    """The eval run, or EvalRun.DoesNotExist for whoever may not see it."""
    found: EvalRun = EvalRun.objects.visible_to(user).select_related("project", "benchmark", "checkpoint__run").get(pk=pk)
    return found
