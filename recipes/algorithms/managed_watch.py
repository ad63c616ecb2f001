"""A managed run from a job that is ordered to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes.algorithms.managed_orders import Ending, JobRecord, Stopped
from recipes.checkpoints import FINAL
from recipes.errors import BackendError, ErrorKind
from recipes.managed_jobs import JobPhase, JobStanding, ManagedJobs
from recipes.patience import SHORTEST_PAUSE
from recipes.types import StopRequest

if TYPE_CHECKING:
    from recipes.algorithms.managed_run import ManagedRun

CANCEL_SECONDS = 120.0
WORDS_SECONDS = 60.0
"""A service may count aloud ("step 17 of 900"): how often its words are told while its state stays."""
MODEL_SECONDS = 600.0


class Watching:
    def __init__(self, run: ManagedRun, jobs: ManagedJobs, record: JobRecord) -> None:
        self.run, self.jobs, self.record = run, jobs, record
        self.kind = run.algorithm.kind
        self.watch = run.algorithm.watch
        self.event = run.dispatch.event
        self.patience = run.patience
        self._told: tuple[str, str] | None = None
        self._told_at = 0.0
        self._moved: object = None
        self._moved_at = time.monotonic()
        self._metrics_refused = ""

    def until_the_end(self) -> Ending:
        self.run.job_at_work = self.record.job
        pause = shortest = self.watch.poll_seconds * SHORTEST_PAUSE
        while True:
            try:
                standing = self._look()
            except Stopped:
                return self._stop()
            has_news = self._tell(standing) | self._read_metrics()
            if standing.phase.is_over:
                return self._over(standing)
            self._refuse_standstill(standing)
            if self.run.state.stop_requested is not StopRequest.NONE:
                return self._stop()
            pause = shortest if has_news else min(self.watch.poll_seconds, pause * 1.5)
            self.run.state.stop_event.wait(pause)

    def _look(self) -> JobStanding:
        """Raises BackendError when the service refuses, is out of reach for too long, or has lost the job; Stopped when a stop is
        asked for while it is out of reach."""
        before = self.patience.num_outages
        standing = self.patience.ask(lambda: self.jobs.look(self.kind, self.record.job))
        if self.patience.num_outages != before:
            self._moved_at = time.monotonic()
        if standing is None:
            self.run.job_at_work = ""
            raise BackendError(
                f"{self.jobs.place} has no job {self.record.job} any more: somebody deleted it there.",
                permanent=True,
                kind=ErrorKind.REQUEST,
            )
        return standing

    def _tell(self, standing: JobStanding) -> bool:
        """An event for a state that is new, and for new words in the same state if they are not told too often."""
        told, now = (standing.state, standing.message), time.monotonic()
        is_new_state = self._told is None or self._told[0] != standing.state
        if told == self._told or (not is_new_state and now - self._told_at < WORDS_SECONDS):
            return False
        self._told, self._told_at = told, now
        words = f": {standing.message}" if standing.message else ""
        if standing.phase is JobPhase.UNKNOWN:
            words = f"{words or '.'} This program does not know that state and goes on watching."
        level = "warning" if standing.phase in (JobPhase.PAUSED, JobPhase.UNKNOWN) else "info"
        self.event(level, f"{self.jobs.place} says {standing.state}{words}")
        return True

    def _read_metrics(self) -> bool:
        """A file that cannot be read now is read at the next look; that it cannot is told once."""
        try:
            rows = self.jobs.metric_rows(self.kind, self.record.job)
        except BackendError as error:
            if str(error) != self._metrics_refused:
                self._metrics_refused = str(error)
                self.event("warning", f"No metrics now: {error}")
            return False
        self._metrics_refused = ""
        return self.run.tell(rows or ())

    def _read_missed_metrics(self) -> None:
        """There is no next look, so what failed at the last one is asked for patiently, at an address that is signed anew."""

        def read() -> Sequence[dict[str, Any]]:
            self.jobs.look(self.kind, self.record.job)
            return self.jobs.metric_rows(self.kind, self.record.job) or ()

        if not self._metrics_refused:
            return
        try:
            self.run.tell(self.patience.ask(read))
        except BackendError as error:
            self.event("warning", f"The last metrics of the job were not read, so its curves may end early: {error}")

    def _refuse_standstill(self, standing: JobStanding) -> None:
        """Raises BackendError, after cancelling the job, when nothing has moved for too long."""
        moved = (standing, self.run.state.step)
        if moved != self._moved:
            self._moved, self._moved_at = moved, time.monotonic()
        is_running = standing.phase in (JobPhase.RUNNING, JobPhase.UNKNOWN)
        longest = self.watch.no_progress_seconds if is_running else self.watch.queue_seconds
        if time.monotonic() - self._moved_at <= longest:
            return
        said = f" Its last words: {standing.message}" if standing.message else ""
        outcome = "It was cancelled." if self.run.take_back(self.jobs, self.record) else "It could not be cancelled; look there."
        raise BackendError(
            f"The job {self.record.job} has been {standing.state} at {self.jobs.place} for {longest:,.0f} seconds without any"
            f" progress. {outcome}{said}",
            permanent=False,
            kind=ErrorKind.TIMEOUT,
        )

    # stops

    def _stop(self) -> Ending:
        state = self.run.state
        if state.is_leaving:
            self.event("info", f"This worker leaves. The job {self.record.job} goes on at {self.jobs.place} and is found again.")
            return Ending("cancelled")
        if not self.run.take_back(self.jobs, self.record):
            return Ending("cancelled")
        deadline = time.monotonic() + CANCEL_SECONDS
        while state.stop_requested is not StopRequest.NOW and time.monotonic() < deadline:
            try:
                standing = self._look()
            except BackendError as error:
                self.event("warning", f"It is not known whether the job {self.record.job} is cancelled: {error}")
                break
            self._tell(standing)
            if standing.phase in (JobPhase.SUCCEEDED, JobPhase.ENDED_EARLY):
                return self._over(standing)
            if standing.phase.is_over:
                self._read_metrics()
                self._read_missed_metrics()
                self._keep_last_checkpoint()
                break
            time.sleep(min(1.0, self.watch.poll_seconds * SHORTEST_PAUSE))
        else:
            self.event("warning", f"{self.jobs.place} has not said yet that the job {self.record.job} is cancelled; look there.")
        return Ending("completed" if self._ended_early_with_weights() else "cancelled")

    def _ended_early_with_weights(self) -> bool:
        return self.run.state.stop_requested is StopRequest.EARLY and bool(self.run.manifest.read())

    def _keep_last_checkpoint(self) -> None:
        """What was trained until the stop becomes a model, where checkpoints were ordered."""
        if not self.run.algorithm.saves_between:
            return
        try:
            found = self.patience.ask(lambda: self.jobs.checkpoints(self.kind, self.record.job))
            usable = [each for each in found if each.promotable]
            if not usable:
                self.event("info", "No checkpoint was ready when the job was cancelled, so no weights are kept.")
                return
            base = self.run.ctx.config.model.name
            self.patience.ask(lambda: self.jobs.promote(usable[-1].name, self._model_name(), base))
            if not self._await_model():
                return
        except BackendError as error:
            self.event("warning", f"The last checkpoint could not be made a model: {error}")
            return
        step = usable[-1].step if usable[-1].step is not None else self.run.state.step
        self.run.save(f"step_{step}", self._uri(), step=step)

    # ends that the job came to by itself

    def _over(self, standing: JobStanding) -> Ending:
        self.run.job_at_work = ""
        self.run.is_ending = True
        self._read_missed_metrics()
        if standing.cost:
            self.event("info", f"{self.jobs.place} estimates the cost at {standing.cost}.")
        if standing.phase in (JobPhase.SUCCEEDED, JobPhase.ENDED_EARLY):
            return self._bring_home(standing)
        if standing.phase is JobPhase.CANCELLED:
            raise BackendError(
                f"The job {self.record.job} was cancelled at {self.jobs.place}, not from here. {standing.message}".strip(),
                permanent=True,
                kind=ErrorKind.REQUEST,
            )
        self._keep_last_checkpoint()
        raise BackendError(
            f"{self.jobs.place} ended the job {self.record.job} as {standing.state}: {standing.message or 'it gives no reason'}.",
            permanent=True,
            kind=ErrorKind.SERVER,
        )

    def _bring_home(self, standing: JobStanding) -> Ending:
        if not self._await_model():
            raise BackendError(
                f"The job {self.record.job} ended as {standing.state}, but {self.jobs.place} shows no model {self.record.model}."
                " Resume this run to look again.",
                permanent=False,
                kind=ErrorKind.SERVER,
            )
        if not self.run.state.step:
            self.event("warning", f"{self.jobs.place} gave no metrics of this job, so there are no curves.")
        self.run.save(FINAL, self._uri(), step=self.run.state.step)
        self.run.tidy(self.jobs)
        return Ending("completed")

    def _await_model(self) -> bool:
        """Whether the model is seen to exist before long. Raises BackendError, and Stopped when this worker leaves."""
        state, deadline = self.run.state, time.monotonic() + MODEL_SECONDS
        while not self.patience.ask(lambda: self.jobs.has_model(self.record.model)):
            if state.stop_requested is not StopRequest.NONE and state.is_leaving:
                raise Stopped
            if time.monotonic() >= deadline or state.stop_requested is StopRequest.NOW:
                return False
            time.sleep(min(1.0, self.watch.poll_seconds * SHORTEST_PAUSE))
        return True

    def _model_name(self) -> str:
        return f"accounts/{self.jobs.account}/models/{self.record.model}"

    def _uri(self) -> str:
        return self.run.algorithm.weights_uri(self.jobs.account, self.record.model)
