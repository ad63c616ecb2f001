"""The tinker backend: every call goes through the official SDK and is submitted before this module waits for anything.

The SDK's future for a request is made, and the request on its way, when the SDK's method returns; `Connection.wait` only waits
for it.

A checkpoint is an URI of three parts, tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME. Training can begin from the
first kind only; both are saved under one name, so that the URI to sample from also says what to continue from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel

from recipes import losses
from recipes.backends.tinker.config import TinkerConfig
from recipes.backends.tinker.connection import Connection
from recipes.backends.tinker.sampling import TinkerSampler, TinkerWeights, base_client
from recipes.backends.waiting import in_thread
from recipes.errors import BackendError, CheckpointError, ConfigError, RecipeError
from recipes.rendering import load_tokenizer
from recipes.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    LossCallable,
    ModelOutput,
    OptimStepResult,
)

if TYPE_CHECKING:
    import tinker

    from recipes.config import BaseAlgorithmConfig, ModelConfig

ResultT = TypeVar("ResultT")
WireT = TypeVar("WireT")


class TinkerBackend:
    """LoRA on Tinker's servers, or on a compatible one. Not for `lora_rank` 0: the service trains adapters only."""

    name: ClassVar[str] = "tinker"
    summary: ClassVar[str] = "Tinker's hosted service, or any server that speaks its protocol, such as SkyRL on your own GPUs."
    Config: ClassVar[type[BaseModel]] = TinkerConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    unused_by_evals: ClassVar[frozenset[str]] = frozenset(
        {"train_attention", "train_mlp", "train_unembedding", "checkpoint_ttl_hours"}
    )
    gives_topk_prompt_logprobs: ClassVar[bool] = True

    def __init__(self, connection: Connection, client: tinker.TrainingClient, tokenizer: Any, *, base_model: str) -> None:
        self._connection = connection
        self._client = client
        self._tokenizer = tokenizer
        self._base_model = base_model
        self._refused_gradient: str | None = None

    @staticmethod
    def check_algorithm(settings: BaseModel, chosen: BaseModel, model: ModelConfig) -> None:
        """Before a run waits in the queue. Raises ConfigError for weights that cannot be trained there."""
        if getattr(settings, "lora_rank", 1) < 1:
            raise ConfigError(
                "Tinker trains LoRA adapters only: give a lora_rank of at least 1.", path=("algorithm", "params", "lora_rank")
            )

    @classmethod
    async def open(
        cls,
        config: BaseModel,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        output_dir: Path,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> TinkerBackend:
        """Begin a session and a LoRA model in it. Raises ConfigError, BackendError."""
        settings = TinkerConfig.model_validate(config.model_dump())
        cls.check_algorithm(algorithm, settings, model)
        connection = await Connection.open(settings, secrets or {}, report)
        service = connection.service

        def begin() -> tuple[tinker.TrainingClient, Any]:
            client = made().result()
            return client, client.get_info().model_data

        def made() -> tinker.APIFuture[tinker.TrainingClient]:
            if model.init_from_checkpoint:
                return service.create_training_client_from_state(trainable(model.init_from_checkpoint))
            return service.create_lora_training_client(
                base_model=model.name,
                rank=algorithm.lora_rank,
                seed=algorithm.seed,
                train_attn=settings.train_attention,
                train_mlp=settings.train_mlp,
                train_unembed=settings.train_unembedding,
            )

        try:
            client, info = await connection.call(begin, "opening the model")
            named = settings.tokenizer or getattr(info, "tokenizer_id", None) or info.model_name or model.name
            return cls(connection, client, load_tokenizer(named), base_model=info.model_name or model.name)
        except BaseException:
            await connection.close()
            raise

    @classmethod
    async def open_for_sampling(
        cls,
        config: BaseModel,
        *,
        model: ModelConfig,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> TinkerWeights:
        """As `open`, without anything to train: a session with samplers in it."""
        settings = TinkerConfig.model_validate(config.model_dump())
        connection = await Connection.open(settings, secrets or {}, report)
        try:
            return await TinkerWeights.open(connection, model.name, model.init_from_checkpoint)
        except BaseException:
            await connection.close()
            raise

    # training

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._gradient(data, loss_fn, loss_fn_config, forward_only=False)

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]:
        """The SDK asks for log-probabilities, differentiates the loss here, and sends the slopes back as weights."""
        from recipes.backends.tinker import wire

        try:
            self._check(data, None)
            sent = [wire.datum_to_wire(datum) for datum in data]
        except RecipeError as error:
            return self._refuse_gradient(error)
        submitted = self._client.forward_backward_custom(sent, _summed(loss_fn, data))
        return self._result(submitted, "the gradient of a custom loss", lambda output: wire.gradient_from_wire(output, data))

    def forward_async(
        self, data: Sequence[Datum], *, loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        return self._gradient(data, loss_fn, loss_fn_config, forward_only=True)

    def _gradient(
        self, data: Sequence[Datum], loss_fn: str, config: Mapping[str, Any] | None, *, forward_only: bool
    ) -> Awaitable[ForwardBackwardResult]:
        from recipes.backends.tinker import wire

        try:
            loss = losses.get(loss_fn)
            settings = losses.settings_of(loss, config)
            self._check(data, loss)
        except RecipeError as error:
            return _failed(error) if forward_only else self._refuse_gradient(error)
        submit = self._client.forward if forward_only else self._client.forward_backward
        # Defaults are sent too: servers differ in theirs.
        submitted = submit([wire.datum_to_wire(datum) for datum in data], wire.loss_to_wire(loss.name), settings or None)
        doing = "the forward pass" if forward_only else "the gradient"
        return self._result(submitted, doing, lambda output: wire.gradient_from_wire(output, data))

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        """Not sent behind a gradient that was refused here. One that fails on the server has this step behind it already."""
        from recipes.backends.tinker import wire

        if self._refused_gradient is not None:
            reason, self._refused_gradient = self._refused_gradient, None
            return _failed(BackendError(f"The step was not taken, because its gradient failed: {reason}", permanent=True))
        return self._result(self._client.optim_step(wire.adam_to_wire(adam)), "the optimizer step", wire.optimizer_from_wire)

    def _check(self, data: Sequence[Datum], loss: losses.Loss | None) -> None:
        losses.check(data, loss, vocab_size=len(self._tokenizer))

    def _refuse_gradient(self, error: RecipeError) -> Awaitable[Any]:
        self._refused_gradient = str(error)
        return _failed(error)

    # weights

    async def save_for_sampler(self, name: str) -> str:
        saved = await self._result(
            self._client.save_weights_for_sampler(name, ttl_seconds=self._ttl), f"saving {name} for sampling", lambda done: done
        )
        return str(saved.path)

    async def save_full_state(self, name: str) -> str:
        saved = await self._result(
            self._client.save_state(name, ttl_seconds=self._ttl, overwrite=True), f"saving the state {name}", lambda done: done
        )
        return str(saved.path)

    async def load_full_state(self, uri: str) -> None:
        """Training goes on in a new model of the session: the service loads weights only where nothing was trained yet."""
        if not uri.startswith("tinker://"):
            raise CheckpointError(f"{uri} is no checkpoint of Tinker; its addresses begin with tinker://.")
        self._client = await self._result(
            self._connection.service.create_training_client_from_state_with_optimizer(trainable(uri)),
            f"loading {uri}",
            lambda client: client,
        )
        self._refused_gradient = None

    @property
    def _ttl(self) -> int | None:
        hours = self._settings.checkpoint_ttl_hours
        return None if hours is None else round(hours * 3600)

    async def expiry_of(self, uris: Sequence[str]) -> datetime | None:
        """As the server lists them, the earliest; None when they stay, or the server keeps no such list. Raises BackendError."""
        run_id = uris[0].removeprefix("tinker://").partition("/")[0]
        listing = in_thread(lambda: self._connection.rest().list_checkpoints(run_id).result())  # opening the client asks, too
        longest = min(self._settings.connect_seconds, self._settings.timeout_seconds)
        try:
            found = await self._connection.wait(listing, "listing checkpoints", longest=longest)
        except BackendError as error:
            if error.permanent:
                return None
            raise
        return min((each.expires_at for each in found.checkpoints if each.tinker_path in uris and each.expires_at), default=None)

    # sampling

    async def snapshot_sampling_client(self, name: str | None = None) -> TinkerSampler:
        return self._sampler(
            await self._result(
                self._client.save_weights_and_get_sampling_client(), "a snapshot to sample from", lambda made: made
            )
        )

    async def reference_sampling_client(self) -> TinkerSampler:
        return self._sampler(await base_client(self._connection, self._base_model))

    def _sampler(self, client: tinker.SamplingClient) -> TinkerSampler:
        return TinkerSampler(client, self._tokenizer, self._connection)

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def close(self) -> None:
        await self._connection.close()

    @property
    def _settings(self) -> TinkerConfig:
        return self._connection.settings

    def _result(self, submitted: tinker.APIFuture[WireT], doing: str, read: Callable[[WireT], ResultT]) -> Awaitable[ResultT]:
        """Waits in a task of its own, so that nobody has to await for the clock to run."""

        async def wait() -> ResultT:
            return read(await self._connection.wait(submitted.future(), doing))

        return _task(wait())


def trainable(uri: str) -> str:
    """The training checkpoint of a sampler's: both were saved under one name."""
    return uri.replace("/sampler_weights/", "/weights/", 1) if uri.startswith("tinker://") else uri


def _summed(loss_fn: LossCallable, data: Sequence[Datum]) -> Callable[[Any, list[Any]], tuple[Any, dict[str, float]]]:
    """Our loss, called per datum, as the SDK's, called per batch. Every log-probability gets a gradient, be it 0."""
    import torch

    metas = [{key: torch.as_tensor(value) for key, value in datum.loss_fn_inputs.items()} for datum in data]

    def loss(_: Any, logprobs_D: list[Any]) -> tuple[Any, dict[str, float]]:
        terms = [
            loss_fn(ModelOutput(logprobs=logprobs), meta) + 0.0 * logprobs.sum()
            for logprobs, meta in zip(logprobs_D, metas, strict=True)
        ]
        return torch.stack([term.reshape(()) for term in terms]).sum(), {}

    return loss


def _failed(error: RecipeError) -> Awaitable[Any]:
    async def fail() -> Any:
        raise error

    return _task(fail())


def _task(work: Coroutine[Any, Any, ResultT]) -> Awaitable[ResultT]:
    """A task whose failure is nobody's surprise: whoever awaits it hears of it, and nobody else has to."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
