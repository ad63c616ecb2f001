"""Training step by step in a session of Fireworks' serverless pool, through its training SDK.

1. Sessions of the pool need nothing to be provisioned: no trainer and no deployment that would cost while it idles. LoRA only.
2. A session is sampled from while it lives (`sampling`), by what trains in it and by nothing else: evals ask a deployment of a
   model, which a checkpoint is made when it is saved (`promotion`). The session takes the others with it when it ends.
3. A state is loaded by its name at the service, into the model that was just made, as Tinker 0.23 does it: seen on our own
   server. The vendor's documents disagree on whether a session may load what another one saved; a refusal is told.
4. A run may begin from the weights of a model that was made so; the SDK's word is `load_adapter`.
5. One request that the SDK refuses makes it refuse every later one on the same client. So what is wrong is found here first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakSet

from pydantic import BaseModel

from recipes import losses
from recipes.backends.fireworks.config import (
    HOSTED,
    SCHEME,
    FireworksConfig,
    Promoted,
    check_model_name,
    check_steps,
    place_of,
)
from recipes.backends.waiting import in_thread, wait_for
from recipes.checkpoints import FINAL
from recipes.errors import BackendError, CheckpointError, ConfigError, ErrorKind, RecipeError
from recipes.rendering import load_tokenizer
from recipes.types import AdamParams, Datum, ForwardBackwardResult, LossCallable, OptimStepResult

if TYPE_CHECKING:
    from recipes.backends.fireworks.promotion import Promotion
    from recipes.backends.fireworks.sampling import PoolSampler, Slots
    from recipes.config import BaseAlgorithmConfig, ModelConfig

ResultT = TypeVar("ResultT")

POOL = "/training/v1/serverless"
CLOSE_SECONDS = 10.0


class FireworksSteps:
    """A LoRA model in a session of the pool."""

    name: ClassVar[str] = "fireworks"
    Config: ClassVar[type[BaseModel]] = FireworksConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    gives_topk_prompt_logprobs: ClassVar[bool] = True

    def __init__(
        self,
        service: Any,
        client: Any,
        tokenizer: Any,
        settings: FireworksConfig,
        report: Callable[[str, str], None] | None,
        promotion: Promotion,
        slots: Slots,
        base_model: str,
    ) -> None:
        self._service = service
        self._client = client
        self._tokenizer = tokenizer
        self._settings = settings
        self._report = report
        self._promotion = promotion
        self._slots = slots
        self._base_model = base_model
        self._samplers: WeakSet[PoolSampler] = WeakSet()
        self._numbers = count(1)
        self._refused_gradient: str | None = None

    @classmethod
    async def begin(
        cls,
        sdk: Any,
        settings: FireworksConfig,
        key: str,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        run_dir: Path,
        report: Callable[[str, str], None] | None,
    ) -> FireworksSteps:
        """Begin a session with a model in it. Raises ConfigError, BackendError."""
        tokenizer = checked_tokenizer(settings, algorithm, model)
        address = f"{settings.base_url or HOSTED}{POOL}"
        connecting = in_thread(lambda: open_model(sdk, address, key, model, algorithm, end=partial(end_session, settings)))
        try:
            service, client = await opened(connecting, settings, report)
            promotion, slots = beside_steps(sdk, settings, key, model=model, run_dir=run_dir, report=report)
            return cls(service, client, tokenizer, settings, report, promotion, slots, model.name)
        except BaseException:
            hang_up(connecting, partial(end_session, settings))
            raise

    # training

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._gradient(data, loss_fn, loss_fn_config, forward_only=False)

    def forward_async(
        self, data: Sequence[Datum], *, loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._gradient(data, loss_fn, loss_fn_config, forward_only=True)

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]:
        return self._refuse_gradient(
            ConfigError("The backend fireworks takes no loss of one's own; local and tinker do.", path=("backend", "kind"))
        )

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        """Not sent behind a gradient that was refused here."""
        from recipes.backends.fireworks import wire

        if self._refused_gradient is not None:
            reason, self._refused_gradient = self._refused_gradient, None
            return failed(BackendError(f"The step was not taken, because its gradient failed: {reason}", permanent=True))
        submitted = self._client.optim_step(wire.adam_to_wire(adam))
        return self._result(submitted, "the optimizer step", wire.optimizer_from_wire)

    def _gradient(
        self, data: Sequence[Datum], loss_fn: str, config: Mapping[str, Any] | None, *, forward_only: bool
    ) -> Awaitable[ForwardBackwardResult]:
        from recipes.backends.fireworks import wire

        try:
            loss = losses.get(loss_fn)
            settings = losses.settings_of(loss, config)
            losses.check(data, loss, vocab_size=len(self._tokenizer))
        except RecipeError as error:
            return failed(error) if forward_only else self._refuse_gradient(error)
        submit = self._client.forward if forward_only else self._client.forward_backward
        submitted = submit([wire.datum_to_wire(datum) for datum in data], loss.name, settings or None)
        doing = "the forward pass" if forward_only else "the gradient"
        return self._result(submitted, doing, lambda output: wire.gradient_from_wire(output, data))

    def _refuse_gradient(self, error: RecipeError) -> Awaitable[Any]:
        self._refused_gradient = str(error)
        return failed(error)

    # weights

    async def save_for_sampler(self, name: str) -> str:
        """The model that it becomes, where it is to become one; else what dies with the session."""
        saved = await self._call(lambda: self._client.save_weights_for_sampler(label_of(name)), f"saving {name} for sampling")
        chosen = self._settings.promote
        if chosen is Promoted.ALL or (chosen is Promoted.FINAL and name == FINAL):
            return f"{SCHEME}{await self._promoted(name, saved.path)}"
        return f"{SCHEME}{saved.path}"

    async def _promoted(self, name: str, snapshot: str) -> str:
        """The model's name. The weights are saved and paid for: that they become no model is told, and ends nothing."""
        making = in_thread(lambda: self._promotion.make(self._saved_below, snapshot, label_of(name)))
        place = place_of(self._settings)
        try:
            model = await asyncio.wrap_future(making)
        except RecipeError as error:
            self._tell(
                "error",
                f"The checkpoint {name} has become no model, so that no eval can have it served and no job can begin from it."
                f" {error}",
            )
            return snapshot
        except asyncio.CancelledError:
            self._promotion.abandon()
            raise
        self._tell("info", f"The checkpoint {name} is a model at {place} now: {model}.")
        return model

    @property
    def _saved_below(self) -> str:
        """What lists the checkpoints of this model, below the account."""
        return f"trainingSessions/{self._service.training_session_id}"

    def _tell(self, level: str, sentence: str) -> None:
        if self._report is not None:
            self._report(level, sentence)

    async def save_full_state(self, name: str) -> str:
        saved = await self._call(lambda: self._client.save_state(label_of(name)), f"saving the state {name}")
        return f"{SCHEME}{saved.path}"

    async def load_full_state(self, uri: str) -> None:
        if not uri.startswith(SCHEME):
            raise CheckpointError(f"{uri} is no checkpoint of Fireworks; its addresses begin with {SCHEME}.")
        path = uri.removeprefix(SCHEME)
        await self._call(lambda: self._client.load_state_with_optimizer(path), f"loading {uri}")
        self._refused_gradient = None

    # sampling

    async def snapshot_sampling_client(self, name: str | None = None) -> PoolSampler:
        """The service keeps one of a name, so that a nameless one is numbered."""
        label = label_of(name or f"snapshot_{next(self._numbers)}")
        saved = await self._call(lambda: self._client.save_weights_for_sampler(label), "saving to sample")
        return await self._sampler(model_path=saved.path)

    async def reference_sampling_client(self) -> PoolSampler:
        """On the session's base, whatever was trained since."""
        return await self._sampler(base_model=self._base_model)

    async def _sampler(self, **weights: str) -> PoolSampler:
        from recipes.backends.fireworks.sampling import PoolSampler

        def make() -> Any:
            if self._service.training_session_name is None:
                raise BackendError(
                    f"{place_of(self._settings)} does not say whose account this key belongs to, or names several. A session is"
                    " sampled from by the name of its one account.",
                    permanent=True,
                    kind=ErrorKind.AUTH,
                )
            return self._service.create_sampling_client(
                tokenizer=self._tokenizer, concurrency_controller=self._slots.controller, **weights
            )

        sampler = PoolSampler(await self._wait(make, "the sampler"), self._slots)
        self._samplers.add(sampler)
        return sampler

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def close(self) -> None:
        """Give the session's place back. One that does not answer any more is left to its heartbeat."""
        self._promotion.abandon()
        for sampler in list(self._samplers):
            sampler.close()
        closing = in_thread(self._end_session)
        try:
            await asyncio.wait_for(asyncio.wrap_future(closing), CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - whatever is wrong with the server, the work has ended
            return

    def _end_session(self) -> None:
        try:
            end_session(self._settings, self._service)
        finally:
            self._promotion.close()

    async def _call(self, submit: Callable[[], Any], doing: str) -> Any:
        return await self._wait(lambda: submit().result(), doing)

    async def _wait(self, work: Callable[[], ResultT], doing: str) -> ResultT:
        from recipes.backends.fireworks.sdk_failures import failure_of

        return await wait_for(
            in_thread(work),
            doing,
            place_of(self._settings),
            self._settings.step_seconds,
            failure_of=failure_of,
            report=self._report,
        )

    def _result(self, submitted: Any, doing: str, read: Callable[[Any], ResultT]) -> Awaitable[ResultT]:
        """Waits in a task of its own, so that nobody has to await for the clock to run."""

        async def wait() -> ResultT:
            return read(await self._wait(submitted.result, doing))

        return _quiet(wait())


def checked_tokenizer(settings: FireworksConfig, algorithm: BaseAlgorithmConfig, model: ModelConfig) -> Any:
    """Raises ConfigError for a run that cannot train step by step there."""
    check_model_name(model.name)
    check_steps(settings, algorithm, model)
    assert settings.tokenizer is not None
    return load_tokenizer(settings.tokenizer)


async def opened(
    connecting: Future[tuple[Any, Any]], settings: FireworksConfig, report: Callable[[str, str], None] | None
) -> tuple[Any, Any]:
    """Service and client, as `open_model` gives them in its thread. Raises BackendError."""
    from recipes.backends.fireworks.sdk_failures import failure_of

    place = place_of(settings)
    return await wait_for(connecting, "opening the model", place, settings.step_seconds, failure_of=failure_of, report=report)


def beside_steps(
    sdk: Any,
    settings: FireworksConfig,
    key: str,
    *,
    model: ModelConfig,
    run_dir: Path,
    report: Callable[[str, str], None] | None,
) -> tuple[Promotion, Slots]:
    """What makes models of checkpoints, and how many samples are asked for at a time. Called in the event loop."""
    from recipes.backends.fireworks.promotion import Promotion
    from recipes.backends.fireworks.sampling import Slots

    tell = told_in(asyncio.get_running_loop(), report)
    promotion = Promotion(settings, key, base_model=model.name, run_dir=run_dir, tell=tell)
    return promotion, Slots(sdk, place_of(settings), settings.step_seconds)


def open_model(
    sdk: Any, address: str, key: str, model: ModelConfig, algorithm: BaseAlgorithmConfig, *, end: Callable[[Any], None]
) -> tuple[Any, Any]:
    """A service client and a model in its session, with the weights to begin from. end(service) ends a session whose model does
    not come. Blocks; raises what the SDK raises."""
    service = sdk.FiretitanServiceClient(base_url=address, api_key=key)
    with ExitStack() as undo:
        # in a thread of its own: a service out of reach is asked for minutes
        undo.callback(lambda: in_thread(partial(_quietly, end, service)))
        client = service.create_lora_training_client(model.name, rank=algorithm.lora_rank, seed=algorithm.seed)
        if model.init_from_checkpoint:
            client.load_adapter(model.init_from_checkpoint.removeprefix(SCHEME)).result()
        undo.pop_all()
    return service, client


def hang_up(connecting: Future[tuple[Any, Any]], end: Callable[[Any], None]) -> None:
    """A session that nobody waits for any more would go on with its heartbeat, and hold its place."""

    def ended(opened: Future[tuple[Any, Any]]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            in_thread(partial(_quietly, end, opened.result()[0]))

    connecting.add_done_callback(ended)


def end_session(settings: FireworksConfig, service: Any) -> None:
    """Of the pool: its place is free again. Blocks; raises what the SDK raises."""
    try:
        if settings.is_billed:
            service.delete_training_session()
    finally:
        service.close()


def _quietly(end: Callable[[Any], None], service: Any) -> None:
    try:
        end(service)
    except Exception:  # noqa: BLE001 - why it is ended is what is told
        return


def told_in(loop: asyncio.AbstractEventLoop, report: Callable[[str, str], None] | None) -> Callable[[str, str], None]:
    """What tells from another thread, in the one that trains: there alone are callbacks called."""

    def tell(level: str, sentence: str) -> None:
        if report is not None and not loop.is_closed():
            loop.call_soon_threadsafe(report, level, sentence)

    return tell


def label_of(name: str) -> str:
    """The service takes letters, digits and hyphens."""
    return name.replace("_", "-")


def failed(error: RecipeError) -> Awaitable[Any]:
    async def fail() -> Any:
        raise error

    return _quiet(fail())


def _quiet(work: Any) -> Awaitable[Any]:
    """A task whose failure is nobody's surprise: whoever awaits it hears of it, and nobody else has to."""
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
