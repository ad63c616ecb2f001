"""A dedicated trainer for one run: ordered, waited for, taken up again by whoever follows a killed worker, deleted in the end.

1. Its name is chosen here and written down before the service hears of it (`recipes.resources`), so that none is an orphan. The
   service itself stops one that nobody has asked for a while.
2. It is deleted however the run ends, also while it is still waited for: the vendor's SDK leaves one behind that waits for
   capacity, which then comes, and costs. Gone is what reads as gone.
3. A worker that finds one of an earlier worker trains on in it, if it is made for the same; any other is deleted.
4. `longest_hours` are counted from the order, also by whoever takes the trainer up. Shortly before they are over nothing new is
   begun, so that what was trained is saved; when they are over it is deleted by a clock of its own, whatever the run does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipes.backends.fireworks.config import FireworksConfig, place_of
from recipes.backends.fireworks.trainers import (
    SHAPE_PLACE,
    TRAINER,
    FireworksTrainers,
    TrainerOrder,
    TrainerPhase,
    TrainerStanding,
    TrainingShape,
)
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.patience import SHORTEST_PAUSE, Patience
from recipes.resources import Resource, ResourceLog, fresh_name

POLL_SECONDS = 5.0
"""The longest pause between two looks."""
NOTE_SECONDS = 60.0
DELETE_SECONDS = 300.0
"""How long the service may be out of reach when the trainer is to be deleted."""
LAST_SECONDS, LAST_SHARE = 600.0, 0.1
"""What is kept of `longest_hours` for the step that is under way and for saving: so long, and no more than this share of them."""
GRANTED = " Dedicated trainers are granted per account; ask Fireworks for the Training API, or train in the serverless pool."


class ProvisioningStopped(Exception):
    """Nobody waits for the trainer any more."""


class DedicatedTrainer:
    """Its methods block and may be called from any thread, one at a time; `abandon` from any other. tell(level, sentence) is
    called in the thread that waits."""

    def __init__(
        self,
        settings: FireworksConfig,
        key: str,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        run_dir: Path,
        tell: Callable[[str, str], None],
    ) -> None:
        self._settings, self._key = settings, key
        self._model, self._algorithm = model.name, algorithm
        self._run, self._log = run_dir.name, ResourceLog(run_dir)
        self._tell = tell
        self._abandoned = threading.Event()
        self._patience = Patience(
            wait=lambda seconds, error: self._pause(seconds),
            tell=tell,
            outage_seconds=settings.outage_seconds,
            poll_seconds=POLL_SECONDS,
        )
        self._trainers: FireworksTrainers | None = None
        self._resource: Resource | None = None
        self._up_since = time.monotonic()
        self._end: threading.Timer | None = None
        self._is_overdue = self._is_removed = False
        self._ordering, self._removing = threading.Lock(), threading.Lock()
        self.context_length: int | None = None
        """Tokens that it reads at once; None where the service does not say."""

    @property
    def name(self) -> str:
        return self._resource.name if self._resource else ""

    @property
    def account(self) -> str:
        return self._asked.account

    def abandon(self) -> None:
        self._abandoned.set()

    def up(self) -> str:
        """Where it speaks the training protocol. Raises ConfigError before anything is made; BackendError, ProvisioningStopped.
        Whoever calls has it removed afterwards, whatever came of this."""
        left = [resource for resource in self._log.left() if resource.kind == TRAINER]
        for resource in left:
            self._log.take_over(resource)
        account = left[-1].account if left else ""
        self._trainers = self._patience.ask(partial(FireworksTrainers, self._settings, self._key, account=account))
        shape = self._checked_shape()
        if not self._take_up(left):
            self._order(shape)
        self._await_ready(shape)
        return self._asked.address(self.name)

    def overdue(self) -> BackendError | None:
        """It has been up for as long as it may cost, but for what saving may take."""
        longest = self._settings.longest_hours * 3600
        if time.monotonic() - self._up_since <= longest - min(LAST_SECONDS, LAST_SHARE * longest):
            return None
        return BackendError(
            f"The trainer {self.name} was up for {self._settings.longest_hours:g} hours, as long as longest_hours allows"
            " (the last minutes are for saving), and is deleted. Resume the run to go on in another one.",
            permanent=False,
            kind=ErrorKind.TIMEOUT,
        )

    def end_in_words(self) -> str:
        """Why it does not answer, where it was deleted here or the service says that it has ended; else empty."""
        if self._is_overdue:
            return str(self.overdue() or "")
        try:
            standing = self._asked.look(self.name)
        except (BackendError, ConfigError):
            return ""
        if standing is None:
            return f"The trainer {self.name} is gone: somebody deleted it there."
        return f"The trainer {self.name} {_ended(standing)}." if standing.phase is TrainerPhase.ENDED else ""

    def remove(self) -> None:
        """Delete it, and what earlier workers left, patiently; not what a later one has taken up or ordered, whose run it is
        then. What cannot be deleted stays written down, and whoever reads the run is told. Raises nothing of the service's."""
        if self._end is not None:
            self._end.cancel()
        if self._trainers is None:
            return
        with self._removing:
            for resource in self._own():
                if resource.account == self._trainers.account:
                    self._remove(resource)
            self._is_removed = True
        self._trainers.close()

    # the way there

    def _own(self) -> list[Resource]:
        return [resource for resource in self._log.own() if resource.kind == TRAINER]

    @property
    def _asked(self) -> FireworksTrainers:
        assert self._trainers is not None
        return self._trainers

    @property
    def _max_seq_len(self) -> int | None:
        return getattr(self._algorithm, "max_seq_len", None)

    def _checked_shape(self) -> TrainingShape | None:
        """None leaves it to the service. Raises ConfigError for one that cannot train this, or is too dear."""
        if (name := self._settings.training_shape) is None:
            return None
        shape = self._patience.ask(lambda: self._asked.shape(name))
        if not shape.trains_adapters:
            raise ConfigError(
                f"The training shape {name} trains no LoRA adapters. Name one that does (they end in -lora or -lora-…), or leave"
                " the choice to the service. Nothing was made.",
                path=SHAPE_PLACE,
            )
        wanted = self._max_seq_len
        if wanted is not None and shape.context_length is not None and wanted > shape.context_length:
            raise ConfigError(
                f"The training shape {name} reads {shape.context_length:,} tokens at most, less than max_seq_len {wanted:,}."
                " Lower that, or name another shape. Nothing was made.",
                path=("algorithm", "params", "max_seq_len"),
            )
        most, price = self._settings.max_dollars_per_hour, shape.dollars_per_hour
        if most is not None and (price is None or price > most):
            found = "is not known" if price is None else f"is about ${price:,.2f}"
            raise ConfigError(
                f"The training shape {name} has {shape.accelerators} × {shape.accelerator}, whose price an hour {found},"
                f" and max_dollars_per_hour allows ${most:,.2f}. Nothing was made.",
                path=("backend", "params", "max_dollars_per_hour"),
            )
        return shape

    def _take_up(self, left: list[Resource]) -> bool:
        """What an earlier worker ordered; what of it cannot be used is removed."""
        for resource in left:
            standing = self._patience.ask(partial(self._asked.look, resource.name))
            self._resource = resource
            if standing is None:
                self._log.gone(resource)
            elif standing.phase is TrainerPhase.ENDED or not self._is_made_for_this(standing):
                self._remove(resource)
            else:
                self._count_from(time.monotonic() - self._log.seconds_since_planned(resource))
                self._tell("info", f"Found the trainer {resource.name} again at {self._asked.place}.")
                return True
        self._resource = None
        return False

    def _is_made_for_this(self, standing: TrainerStanding) -> bool:
        return (standing.base_model, standing.rank) == (self._model, self._algorithm.lora_rank)

    def _order(self, shape: TrainingShape | None) -> None:
        place = self._asked.place
        self._tell(
            "info",
            f"{place} trains {self._model} on {shape.cost}."
            if shape
            else f"{place} chooses what the trainer of {self._model} runs on, and bills its GPUs by the second while it is up.",
        )
        self._pause(0)
        resource = Resource(TRAINER, fresh_name(self._run), self._asked.account)
        order = TrainerOrder(
            resource.name,
            self._model,
            self._algorithm.lora_rank,
            self._algorithm.learning_rate,
            shape,
            self._max_seq_len,
            self._settings.idle_minutes,
        )
        self._log.plan(resource)
        self._resource, num_outages = resource, self._patience.num_outages
        self._count_from(time.monotonic())

        def create() -> None:
            with self._ordering:  # what is deleted meanwhile would come after its deletion
                if self._is_overdue and (error := self.overdue()) is not None:
                    raise error
                self._asked.create(order)

        try:
            self._patience.ask(create)
        except BackendError as error:
            if error.permanent and self._patience.num_outages == num_outages:
                self._strike(resource, error)
            if error.kind is ErrorKind.AUTH:
                raise BackendError(f"{error}{GRANTED}", permanent=True, kind=error.kind) from error
            raise
        self._tell("info", f"Ordered the trainer {resource.name}, account {resource.account}. It is deleted after the run.")

    def _strike(self, resource: Resource, refusal: BackendError) -> None:
        """An order that was heard once, and refused. What is gone is what was never allowed, or what a deletion has found to be
        so; else it stays written down, and `remove` tries again."""
        if refusal.kind is not ErrorKind.AUTH:
            try:
                self._asked.delete(resource.name)
            except (BackendError, ConfigError):
                return
        self._log.gone(resource)
        self._resource = None

    def _count_from(self, up_since: float) -> None:
        """It may be up for `longest_hours` from then on, in time.monotonic()."""
        self._up_since = up_since
        self._end_in(up_since + self._settings.longest_hours * 3600 - time.monotonic())

    def _end_in(self, seconds: float) -> None:
        self._end = threading.Timer(max(0.0, seconds), self._remove_overdue)
        self._end.daemon = True
        self._end.start()

    def _remove_overdue(self) -> None:
        """Whatever is under way: a step that hangs, a wait, somebody's evaluator. What cannot be deleted now can be later."""
        self._is_overdue = True
        with self._ordering, self._removing:
            resource = self._resource
            if resource is None or self._is_removed or resource not in self._own():
                return
            self._remove(resource)
            if resource in self._own():
                self._end_in(NOTE_SECONDS)

    def _await_ready(self, shape: TrainingShape | None) -> None:
        began = time.monotonic()
        longest, told, told_at = self._settings.ready_seconds, "", began
        deadline, pause = began + longest, POLL_SECONDS * SHORTEST_PAUSE / 10
        self._pause(0)
        while True:
            standing = self._patience.ask(lambda: self._asked.look(self.name))
            if standing is None:
                raise self._failure("is gone: somebody deleted it there", ErrorKind.REQUEST)
            if standing.phase is TrainerPhase.ENDED:
                raise self._failure(_ended(standing), ErrorKind.SERVER)
            if standing.phase is TrainerPhase.RUNNING and self._asked.answers(self.name):
                break
            now = time.monotonic()
            said = f"{standing.state}{f': {standing.message}' if standing.message else ''}"
            if said != told or now - told_at >= NOTE_SECONDS:
                waited = f" It has been waited for {now - began:,.0f} of {longest:,.0f} seconds." if said == told else ""
                self._tell("info", f"{self._asked.place} says of the trainer {said.rstrip('.')}.{waited}")
                told, told_at = said, now
            if now >= deadline:
                raise self._failure(
                    f"was still {standing.state} and not ready after {longest:,.0f} seconds, as long as ready_seconds allows"
                )
            self._pause(pause)
            pause = min(POLL_SECONDS, pause * 1.5)
        self.context_length = standing.context_length or (shape.context_length if shape else None)
        self._tell("info", f"The trainer answers, after {time.monotonic() - began:,.0f} seconds.")

    def _failure(self, what: str, kind: ErrorKind = ErrorKind.TIMEOUT) -> BackendError:
        return BackendError(f"The trainer {self.name} at {self._asked.place} {what}.", permanent=False, kind=kind)

    def _pause(self, seconds: float) -> None:
        """Raises ProvisioningStopped as soon as nobody waits any more, BackendError once the trainer may be up no longer."""
        if self._abandoned.wait(seconds):
            raise ProvisioningStopped
        if self._end is not None and (error := self.overdue()) is not None:
            raise error

    # the way back

    def _remove(self, resource: Resource) -> None:
        patience = Patience(
            wait=lambda seconds, error: time.sleep(seconds),
            tell=self._tell,
            outage_seconds=DELETE_SECONDS,
            poll_seconds=POLL_SECONDS,
        )
        bill = self._bill_of(resource)
        try:
            patience.ask(lambda: self._asked.delete(resource.name))
        except (BackendError, ConfigError) as error:
            self._tell(
                "error",
                f"The trainer {resource.name} was not deleted and may cost; `manage.py reap` tries again, and"
                f" {place_of(self._settings)} stops it after {self._settings.idle_minutes} idle minutes. {error}",
            )
            return
        self._log.gone(resource)
        self._tell("info", f"The trainer {resource.name} was deleted.{f' {bill}' if bill else ''}")

    def _bill_of(self, resource: Resource) -> str:
        try:
            standing = self._asked.look(resource.name)
        except (BackendError, ConfigError):
            return ""
        return standing.bill if standing else ""


def _ended(standing: TrainerStanding) -> str:
    return f"is {standing.state}: {(standing.message or 'it gives no reason').rstrip('.')}"
