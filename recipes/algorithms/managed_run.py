"""A whole run that a service trains as a job of its own: order it, watch it, report it like any other run, bring it home.

1. Ids are chosen here and written down (managed_job.json) before the service hears of them, so a worker that was killed anywhere
   is followed by one that finds the same job, and no second one is ever made.
2. A worker that leaves does not stop the job: the next one goes on watching. A stop that somebody asked for cancels it.
3. RUNNING is no proof of life: what has not moved for a long time, by a clock of our own, is cancelled and ends as a failure.
4. The service may be out of reach for a while, at any question (`recipes.patience`); the job does not mind, nor does the run.
5. A run that ends while its job may be at work says so, and leaves it written down, for a resume or the reaper to find.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from recipes.algorithms.managed_orders import JOB_FILE, Ending, JobRecord, ManagedAlgorithm, Stopped
from recipes.algorithms.managed_watch import Watching
from recipes.callbacks import METRICS_FILE, Dispatch, MetricsFile, ToLogStore, read_metrics
from recipes.checkpoints import Manifest, differences, fingerprint_of
from recipes.errors import BackendError, CheckpointError, ErrorKind, RecipeError
from recipes.managed_jobs import JobPhase, JobStanding, ManagedJobs
from recipes.managed_metrics import Ledger
from recipes.managed_rows import check_count
from recipes.patience import SHORTEST_PAUSE, Patience
from recipes.resources import Resource, ResourceLog
from recipes.row_order import Split
from recipes.types import Checkpoint, LoopState, Metrics, Row, RunContext, RunResult, StopRequest

log = logging.getLogger(__name__)

RESUME_SECONDS = 60.0
DEAF_SECONDS = 2.0
"""So soon a second stop is heard while the end is waited for."""


class ManagedRun:
    """`ManagedRun(algorithm, ctx).execute()` is one run, from whatever was left of it to its end."""

    def __init__(self, algorithm: ManagedAlgorithm, ctx: RunContext) -> None:
        self.algorithm = algorithm
        self.ctx = ctx
        self.state = LoopState(run_id=ctx.run_id, num_steps=0, output_dir=ctx.output_dir, ctx=ctx)
        stores = [ToLogStore(ctx.log_store)] if ctx.log_store is not None else []
        self.dispatch = Dispatch([MetricsFile(ctx.output_dir / METRICS_FILE), *ctx.callbacks, *stores], self.state)
        self.patience = Patience(
            wait=self._wait_through,
            tell=self.dispatch.event,
            outage_seconds=algorithm.outage_seconds(ctx),
            poll_seconds=algorithm.watch.poll_seconds,
        )
        self.is_ending = False
        """What is asked now ends the bill or brings results home, so that a stop does not cut it short; a second one does."""
        self.manifest = Manifest(ctx.output_dir)
        self.resources = ResourceLog(ctx.output_dir)
        self.ledger = Ledger(algorithm.kind)
        self.metrics: Metrics = {}
        self.jobs: ManagedJobs | None = None
        self.job_at_work = ""
        """The job that may be at work now, for all that this run knows."""

    def execute(self) -> RunResult:
        try:
            self.ctx.output_dir.mkdir(parents=True, exist_ok=True)
            ending = self._train()
        except Stopped:
            ending = Ending("cancelled")
        except Exception as error:  # noqa: BLE001 - recorded here, raised again below unless it is a RecipeError
            ending = self._failed(error)
        finally:
            if self.jobs is not None:
                self.jobs.close()
        result = self._result(ending)
        self.dispatch.report_failures()
        self.dispatch.fire("on_train_end", self.state, result)
        if ending.cause is not None and not isinstance(ending.cause, RecipeError):
            raise ending.cause
        return result

    # the way there

    def _train(self) -> Ending:
        ctx, algorithm = self.ctx, self.algorithm
        rows = algorithm.split(ctx, self.dispatch.event)
        check_count(len(rows.train))
        found = self._record(rows)
        self._remember_what_was_told()
        self.state.num_steps = algorithm.num_steps(len(rows.train))
        self.dispatch.fire("on_train_data", ctx, rows.train)
        self.dispatch.fire("on_train_start", self.state)
        record, is_new = found
        if not is_new and Resource(f"{algorithm.kind}_job", record.job, record.account) in self.resources.left():
            self.job_at_work = record.job
        jobs = self.jobs = self.patience.ask(lambda: algorithm.connect(ctx, self._pause, record.account))
        if not record.account:
            record = self._keep(replace(record, account=jobs.account))
        standing = None if is_new else self.patience.ask(lambda: jobs.look(algorithm.kind, record.job))
        if standing is None:
            record = self._order_or_take_back(jobs, record, rows)
        elif standing.phase in (JobPhase.FAILED, JobPhase.CANCELLED):
            self._resume(jobs, record, standing)
        else:
            self.dispatch.event("info", f"Found the job {record.job} again at {jobs.place}.")
        return Watching(self, jobs, record).until_the_end()

    def _record(self, rows: Split) -> tuple[JobRecord, bool]:
        """What an earlier worker wrote down, or new ids. Raises CheckpointError when the run is made of something else now."""
        path = self.ctx.output_dir / JOB_FILE
        now = fingerprint_of(self.ctx.config, rows.train, rows.held_out)
        record = JobRecord.read(path)
        if record is None:
            return self._keep(JobRecord.make(self.algorithm.kind, self.ctx.run_id, now)), True
        if changed := differences(record.fingerprint, now):
            raise CheckpointError(
                f"This run cannot go on with its job {record.job}, because it has changed: {'; '.join(changed)}."
                " Change that back, or start a new run."
            )
        return record, False

    def _keep(self, record: JobRecord) -> JobRecord:
        record.write(self.ctx.output_dir / JOB_FILE)
        return record

    def _remember_what_was_told(self) -> None:
        for row in read_metrics(self.ctx.output_dir / METRICS_FILE):
            self.ledger.remember(row["step"], row["metrics"])
            self.metrics |= {key: float(value) for key, value in row["metrics"].items()}
        if not self.ledger.last_step:  # a run that begins at step 0 forgets what was told of it
            self.ledger, self.metrics = Ledger(self.algorithm.kind), {}
        self.state.step = self.state.start_step = self.ledger.last_step

    def _order_or_take_back(self, jobs: ManagedJobs, record: JobRecord, rows: Split) -> JobRecord:
        """Raises BackendError for a job that was there: nobody asked for a second one."""
        self.job_at_work = ""
        if record.is_ordered:
            raise BackendError(
                f"{jobs.place} has no job {record.job} any more: somebody deleted it there. Clone the run to begin anew.",
                permanent=True,
                kind=ErrorKind.REQUEST,
            )
        try:
            return self._order(jobs, record, rows)
        except Stopped:
            if not self.state.is_leaving:  # an order whose answer was lost may have been heard
                if self.job_at_work:
                    self.take_back(jobs, record)
                else:
                    self.tidy(jobs)
            raise

    def _order(self, jobs: ManagedJobs, record: JobRecord, rows: Split) -> JobRecord:
        algorithm, ctx = self.algorithm, self.ctx
        self.patience.ask(lambda: algorithm.check(ctx, jobs))
        self._upload(jobs, record.dataset, rows.train, "training")
        if rows.held_out:
            self._upload(jobs, record.evaluation, rows.held_out, "validation")
        self._refuse_if_asked()
        order = algorithm.order(ctx, record, account=jobs.account, is_measured=bool(rows.held_out))
        self.resources.plan(Resource(f"{algorithm.kind}_job", record.job, jobs.account))
        self._ask_for_work(record, lambda: jobs.create(order))
        self.dispatch.event("info", f"Ordered the job {record.job} at {jobs.place}, account {jobs.account}.")
        return self._keep(replace(record, is_ordered=True))

    def _ask_for_work(self, record: JobRecord, ask: Callable[[], None]) -> None:
        """What is refused at once is not at work; where an answer was lost before, that is not known. Raises BackendError."""
        before, self.job_at_work = self.patience.num_outages, record.job
        try:
            self.patience.ask(ask)
        except BackendError as error:
            if error.permanent and self.patience.num_outages == before:
                self.job_at_work = ""
            raise

    def _upload(self, jobs: ManagedJobs, dataset_id: str, rows: Sequence[Row], purpose: str) -> None:
        self._refuse_if_asked()
        path = self.ctx.output_dir / f"{purpose}_rows.jsonl"
        try:
            num_rows = self.algorithm.write(path, rows)
            size = path.stat().st_size / 1e6
            self.dispatch.event("info", f"Uploading {num_rows:,} {purpose} rows ({size:,.1f} MB) to {jobs.place}.")
            self.resources.plan(Resource("dataset", dataset_id, jobs.account))
            title = f"{self.ctx.config.name} ({purpose})"[:60]
            self.patience.ask(lambda: jobs.put_dataset(dataset_id, path, num_rows=num_rows, title=title))
        finally:
            path.unlink(missing_ok=True)

    def _resume(self, jobs: ManagedJobs, record: JobRecord, standing: JobStanding) -> None:
        """A job that ended without success goes on if the service lets it. Raises BackendError."""
        kind = self.algorithm.kind
        try:
            self._ask_for_work(record, lambda: jobs.resume(kind, record.job))
        except BackendError as error:
            if not error.permanent:
                raise
            raise BackendError(
                f"The job {record.job} ended as {standing.state} and cannot go on: {error} Clone the run to begin anew.",
                permanent=True,
                kind=error.kind,
            ) from error
        self.dispatch.event(
            "info", f"Asked {jobs.place} to go on with the job {record.job}, which had ended as {standing.state}."
        )
        deadline = time.monotonic() + RESUME_SECONDS
        while time.monotonic() < deadline:
            try:
                found = self.patience.ask(lambda: jobs.look(kind, record.job))
                if found is None or found.phase not in (JobPhase.FAILED, JobPhase.CANCELLED):
                    return
                self._pause(self.algorithm.watch.poll_seconds * SHORTEST_PAUSE)
            except Stopped:
                if not self.state.is_leaving:  # it would go on and be billed with nobody to watch it
                    self.take_back(jobs, record)
                raise

    def take_back(self, jobs: ManagedJobs, record: JobRecord) -> bool:
        """Cancel the job, patiently. False, and an event, when the service will not."""
        self.is_ending = True
        try:
            self.patience.ask(lambda: jobs.cancel(self.algorithm.kind, record.job))
        except BackendError as error:
            self.dispatch.event("error", f"The job {record.job} could not be cancelled and may go on, and cost: {error}")
            return False
        self.job_at_work = ""
        self.dispatch.event("info", f"Asked {jobs.place} to cancel the job {record.job}.")
        return True

    # what every part of it uses

    def _pause(self, seconds: float) -> None:
        """Raises Stopped as soon as a stop is asked for."""
        self.state.stop_event.wait(seconds)
        self._refuse_if_asked()

    def _wait_through(self, seconds: float, error: BackendError) -> None:
        """Raises Stopped when a stop is asked for in an outage, and the outage itself at a second stop."""
        if not self.is_ending:
            self._pause(seconds)
        elif self.state.is_leaving:
            raise Stopped
        elif self.state.stop_requested is StopRequest.NOW:
            raise error
        else:
            time.sleep(min(seconds, DEAF_SECONDS))

    def _refuse_if_asked(self) -> None:
        if self.state.stop_requested is not StopRequest.NONE:
            raise Stopped

    def tell(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Report what is new in the job's metrics; False when nothing is."""
        state, found = self.state, self.ledger.take(rows)
        for step, train, evaluated in found:
            state.step = max(state.step, step)
            state.num_steps = max(state.num_steps, step)
            if train:
                train = {"progress/done": step / state.num_steps} | train
                self.metrics |= train
                self.dispatch.fire("on_step_end", state, step, None, train)
            if evaluated:
                self.metrics |= evaluated
                self.dispatch.fire("on_eval", state, step, "validation", evaluated)
        return bool(found)

    def save(self, name: str, uri: str, *, step: int) -> None:
        checkpoint = Checkpoint(name, step, None, uri, metrics=dict(self.metrics))
        self.manifest.append(checkpoint)
        self.dispatch.fire("on_checkpoint", self.state, checkpoint)

    def tidy(self, jobs: ManagedJobs) -> None:
        """The rows are not needed there any more; the job has ended and is not in the way."""
        for resource in self.resources.left():
            if resource.kind == "dataset":
                try:
                    jobs.delete(resource)
                except BackendError as error:
                    self.dispatch.event("warning", f"The uploaded rows were not deleted: {error}")
                    continue
            self.resources.gone(resource)

    # the end

    def _failed(self, error: Exception) -> Ending:
        sentence = str(error) if isinstance(error, RecipeError) else f"{type(error).__name__}: {error}"
        if self.job_at_work:
            sentence += f" The job {self.job_at_work} may still be at work and cost: resume this run to find it again."
        log.warning("run %s failed", self.ctx.run_id, exc_info=None if isinstance(error, RecipeError) else error)
        place = f"after step {self.state.step}" if self.state.step else "before the first step"
        self.dispatch.event("error", f"Failed {place}: {sentence}")
        return Ending("failed", sentence, error)

    def _result(self, ending: Ending) -> RunResult:
        artifacts = {"run_dir": str(self.ctx.output_dir)}
        try:
            saved = self.manifest.read()
        except CheckpointError:
            saved = []
        artifacts |= {f"checkpoint-{each.name}": each.sampler_path for each in saved if each.sampler_path}
        return RunResult(
            run_id=self.ctx.run_id,
            status=ending.status,
            metrics=dict(self.metrics),
            artifacts=artifacts,
            error=ending.error,
            steps=self.state.step,
            num_steps=self.state.num_steps,
        )
