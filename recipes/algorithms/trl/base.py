"""What the three have in common: they prepare their rows as sft, dpo and rl do, and leave the steps to one of TRL's trainers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from recipes.algorithms.base import BaseAlgorithm, Drive
from recipes.algorithms.trl.metric_names import MetricNames
from recipes.algorithms.trl.processes import num_processes, rank
from recipes.callbacks import Dispatch
from recipes.checkpoints import Manifest
from recipes.errors import ConfigError
from recipes.loop import Plan
from recipes.protocols import Backend, Evaluator
from recipes.types import LoopState, RunContext, RunResult

if TYPE_CHECKING:
    from recipes.algorithms.trl.model import OpenModel


class TRLRun(BaseAlgorithm):
    """Mixed in before the algorithm whose rows are taken. What was prepared for the loop serves the trainer: `plan` says how many
    steps there are, which of them are saved, and each one's step size."""

    needs_backend: ClassVar[bool] = False
    metric_names: ClassVar[MetricNames]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.writes = rank() == 0

    def train(self, ctx: RunContext) -> RunResult:
        """As any algorithm's, or by several processes, of which this one only passes on what they do."""
        if self.cfg.num_processes == 1 or num_processes() > 1:
            return self._train_here(ctx)
        try:
            from recipes.algorithms.trl.launching import launch, on_processors
        except ModuleNotFoundError:  # told as of any other run of this kind
            return self._train_here(ctx)
        return launch(ctx, num_processes=self.cfg.num_processes, on_processors=on_processors(self.cfg.device))

    def _train_here(self, ctx: RunContext) -> RunResult:
        try:
            return super().train(ctx)
        finally:
            gc.collect()  # a trainer refers to itself: with its weights it would stay while this process evaluates

    def trainer(self, opened: OpenModel, plan: Plan, arguments: dict[str, Any]) -> Any:
        """TRL's trainer, ready to train. `arguments`: of its config, those that all trainers take."""
        raise ConfigError(f"The algorithm {self.name!r} names no trainer.", path=("algorithm", "kind"))

    @property
    def measure_every(self) -> int:
        """Steps between two looks at what is held out; 0 when nothing is."""
        return 0

    async def open_backend(self, ctx: RunContext) -> Backend:
        """The model in place of a backend. Raises ConfigError, CheckpointError, BackendError."""
        if ctx.backend is not None:
            self.report("warning", f"{self.name} trains by itself: the backend that was given is not used.")
        try:
            from recipes.algorithms.trl.model import open_model
        except ModuleNotFoundError as missing:
            raise ConfigError(
                f"{self.name} needs {missing.name}, which is not installed here (an installation for hosted training leaves it"
                " out). Install requirements.txt, or choose another algorithm.",
                path=("algorithm", "kind"),
            ) from None

        return cast(Backend, await asyncio.to_thread(open_model, ctx.config.model, self.cfg))

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        """None of ours: the trainer measures what is held out."""
        return ()

    def drive(
        self,
        *,
        backend: Backend,
        state: LoopState,
        dispatch: Dispatch,
        manifest: Manifest,
        plan: Plan,
        evaluators: Sequence[Evaluator],
    ) -> Drive:
        from recipes.algorithms.trl.training import TrainerDrive

        return TrainerDrive(
            self,
            cast("OpenModel", backend),
            state=state,
            dispatch=dispatch,
            manifest=manifest,
            plan=plan,
            names=self.metric_names,
        )
