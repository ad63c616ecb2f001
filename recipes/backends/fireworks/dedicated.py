"""Training step by step on a dedicated trainer: the pool's steps, at another address, with a machine to be ordered and deleted.

1. A state's address names the trainer that saved it: the same trainer loads it by its name, another one across jobs.
2. Names of states end in this session's letters: a worker that goes on in the trainer of a killed one saves the same steps
   again, and the service's names are not to be used twice.
3. A stop while the trainer is waited for ends the wait and deletes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from recipes.backends.fireworks.config import (
    NO_SAMPLER,
    SCHEME,
    TRAINER_PLACE,
    FireworksConfig,
)
from recipes.backends.fireworks.steps import (
    FireworksSteps,
    beside_steps,
    checked_tokenizer,
    failed,
    hang_up,
    label_of,
    open_model,
    opened,
    told_in,
)
from recipes.backends.waiting import in_thread
from recipes.errors import BackendError, CheckpointError, ConfigError
from recipes.types import Datum, ForwardBackwardResult

if TYPE_CHECKING:
    from recipes.backends.fireworks.provisioning import DedicatedTrainer
    from recipes.config import BaseAlgorithmConfig, ModelConfig

ResultT = TypeVar("ResultT")

_STATE = re.compile(r"accounts/([^/]+)/rlorTrainerJobs/([^/]+)/checkpoints/([^/]+)")


class DedicatedSteps(FireworksSteps):
    """A LoRA model in a trainer of its own."""

    def __init__(self, *parts: Any, trainer: DedicatedTrainer) -> None:
        """parts: as in the pool."""
        super().__init__(*parts)
        self._trainer = trainer
        self.max_positions = trainer.context_length

    @classmethod
    async def begin_in_trainer(
        cls,
        sdk: Any,
        settings: FireworksConfig,
        key: str,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        run_dir: Path,
        report: Callable[[str, str], None] | None,
    ) -> DedicatedSteps:
        """Have a trainer made, or find this run's again, with a model in it. Raises ConfigError, BackendError; nothing is left
        then that would cost."""
        tokenizer = checked_tokenizer(settings, algorithm, model)
        from recipes.backends.fireworks.provisioning import DedicatedTrainer

        tell = told_in(asyncio.get_running_loop(), report)
        trainer = DedicatedTrainer(settings, key, model=model, algorithm=algorithm, run_dir=run_dir, tell=tell)

        coming = in_thread(trainer.up)
        connecting: Future[tuple[Any, Any]] | None = None
        try:
            address = await asyncio.wrap_future(coming)
            connecting = in_thread(lambda: open_model(sdk, address, key, model, algorithm, end=_close))
            service, client = await opened(connecting, settings, report)
            promotion, slots = beside_steps(sdk, settings, key, model=model, run_dir=run_dir, report=report)
            return cls(service, client, tokenizer, settings, report, promotion, slots, model.name, trainer=trainer)
        except BaseException:
            if connecting is not None:
                hang_up(connecting, _close)
            trainer.abandon()
            _remove_once_quiet(trainer, coming, settings, tell)
            raise

    def _gradient(
        self, data: Sequence[Datum], loss_fn: str, config: Mapping[str, Any] | None, *, forward_only: bool
    ) -> Awaitable[ForwardBackwardResult]:
        if (error := self._trainer.overdue()) is not None:
            return failed(error) if forward_only else self._refuse_gradient(error)
        return super()._gradient(data, loss_fn, config, forward_only=forward_only)

    async def save_full_state(self, name: str) -> str:
        own = f"{label_of(name)}-{self._client.session_id}"
        saved = await self._call(lambda: self._client.save_state(own), f"saving the state {name}")
        path = str(saved.path)
        if "/" in path:
            return f"{SCHEME}{path}"  # it names its account and run itself
        return f"{SCHEME}accounts/{self._trainer.account}/rlorTrainerJobs/{self._trainer.name}/checkpoints/{path}"

    async def load_full_state(self, uri: str) -> None:
        found = _STATE.fullmatch(uri.removeprefix(SCHEME))
        if found is None or not uri.startswith(SCHEME):
            await super().load_full_state(uri)
            return
        account, trainer, name = found.groups()
        if account != self._trainer.account:
            raise CheckpointError(f"{uri} lies in another account than {self._trainer.account}, where this run trains.")
        elsewhere = trainer if trainer != self._trainer.name else None
        path = self._client.resolve_checkpoint_path(name, source_job_id=elsewhere)
        await self._call(lambda: self._client.load_state_with_optimizer(path), f"loading {uri}")
        self._refused_gradient = None

    async def snapshot_sampling_client(self, name: str | None = None) -> NoReturn:
        raise ConfigError(NO_SAMPLER, path=TRAINER_PLACE)

    async def reference_sampling_client(self) -> NoReturn:
        raise ConfigError(NO_SAMPLER, path=TRAINER_PLACE)

    async def close(self) -> None:
        """End the session and delete the trainer, which would cost on, also where nobody waits for the end of either."""
        try:
            await super().close()
        finally:
            await asyncio.shield(asyncio.wrap_future(in_thread(self._trainer.remove)))

    def _end_session(self) -> None:
        self._promotion.close()
        self._service.close()

    @property
    def _saved_below(self) -> str:
        return f"rlorTrainerJobs/{self._trainer.name}"

    async def _wait(self, work: Callable[[], ResultT], doing: str) -> ResultT:
        try:
            return await super()._wait(work, doing)
        except BackendError as error:
            if not (why := await asyncio.wrap_future(in_thread(self._trainer.end_in_words))):
                raise
            raise BackendError(f"{error} {why}", permanent=error.permanent, kind=error.kind) from error


def _close(service: Any) -> None:
    service.close()


def _remove_once_quiet(
    trainer: DedicatedTrainer, coming: Future[str], settings: FireworksConfig, tell: Callable[[str, str], None]
) -> None:
    """Blocks, so that no second cancellation leaves a trainer behind: an order that is on its way is waited for, as it would
    come after the deletion."""
    try:
        coming.exception(timeout=4 * settings.timeout_seconds + 60)  # but for the order itself, the SDK asks three times
    except TimeoutError:
        tell("error", f"It is not known whether the trainer {trainer.name} was ordered, and may cost: `manage.py reap` looks.")
        return
    except CancelledError:  # it never began
        return
    trainer.remove()
