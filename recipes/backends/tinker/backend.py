"""The tinker backend: every call goes through the official SDK and is submitted before this module waits for anything.

The SDK retries without end where a server is gone or always busy, so every wait here has an end of its own. Its future for a
request is made, and the request on its way, when the SDK's method returns; `_wait` only waits for it.

A checkpoint is an URI of three parts, tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME. Training can begin from the
first kind only; both are saved under one name, so that the URI to sample from also says what to continue from.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from recipes import losses
from recipes.backends.tinker.config import TinkerConfig
from recipes.errors import BackendError, CheckpointError, ConfigError, ErrorKind, RecipeError
from recipes.rendering import load_tokenizer
from recipes.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    LossCallable,
    ModelOutput,
    OptimStepResult,
    SampleResult,
    SamplingParams,
)

if TYPE_CHECKING:
    import tinker

    from recipes.config import BaseAlgorithmConfig, ModelConfig

ResultT = TypeVar("ResultT")
WireT = TypeVar("WireT")

KEY_VARIABLE = "TINKER_API_KEY"
KEYLESS = "tml-none"
"""What the SDK is given for a server that asks for no key: without any it would look for one in the worker's home."""
NOTE_SECONDS = 60.0
"""How long a wait is before the run's reader is told of it, and how often again."""
CLOSE_SECONDS = 5.0


class TinkerBackend:
    """LoRA on Tinker's servers, or on a compatible one. Not for `lora_rank` 0: the service trains adapters only."""

    name: ClassVar[str] = "tinker"
    summary: ClassVar[str] = "Tinker's hosted service, or any server that speaks its protocol, such as SkyRL on your own GPUs."
    Config: ClassVar[type[BaseModel]] = TinkerConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    gives_topk_prompt_logprobs: ClassVar[bool] = True

    def __init__(
        self,
        service: tinker.ServiceClient,
        client: tinker.TrainingClient,
        tokenizer: Any,
        *,
        base_model: str,
        settings: TinkerConfig,
        report: Callable[[str, str], None] | None = None,
    ) -> None:
        self._service = service
        self._client = client
        self._tokenizer = tokenizer
        self._base_model = base_model
        self._settings = settings
        self._report = report
        self._refused_gradient: str | None = None

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
        if algorithm.lora_rank < 1:
            raise ConfigError(
                "Tinker trains LoRA adapters only: give a lora_rank of at least 1.", path=("algorithm", "params", "lora_rank")
            )
        sdk = import_sdk()
        key = chosen_key(settings, secrets or {})
        place = place_of(settings)

        def connect() -> tuple[tinker.ServiceClient, tinker.TrainingClient]:
            service = sdk.ServiceClient(base_url=settings.base_url, api_key=key, project_id=settings.project_id)
            if model.init_from_checkpoint:
                return service, service.create_training_client_from_state(trainable(model.init_from_checkpoint)).result()
            made = service.create_lora_training_client(
                base_model=model.name,
                rank=algorithm.lora_rank,
                seed=algorithm.seed,
                train_attn=settings.train_attention,
                train_mlp=settings.train_mlp,
                train_unembed=settings.train_unembedding,
            )
            return service, made.result()

        longest = settings.connect_seconds + settings.timeout_seconds
        await _reach(settings, place)
        service, client = await _wait(_in_thread(connect), "opening the model", place, longest, report)
        info = client.get_info().model_data
        tokenizer = load_tokenizer(settings.tokenizer or getattr(info, "tokenizer_id", None) or info.model_name or model.name)
        return cls(service, client, tokenizer, base_model=info.model_name or model.name, settings=settings, report=report)

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
            self._service.create_training_client_from_state_with_optimizer(trainable(uri)),
            f"loading {uri}",
            lambda client: client,
        )
        self._refused_gradient = None

    @property
    def _ttl(self) -> int | None:
        hours = self._settings.checkpoint_ttl_hours
        return None if hours is None else round(hours * 3600)

    # sampling

    async def snapshot_sampling_client(self, name: str | None = None) -> TinkerSampler:
        return self._sampler(
            await self._result(
                self._client.save_weights_and_get_sampling_client(), "a snapshot to sample from", lambda made: made
            )
        )

    async def reference_sampling_client(self) -> TinkerSampler:
        made = self._service.create_sampling_client(base_model=self._base_model)
        return self._sampler(await self._result(made, "the frozen base model", lambda client: client))

    def _sampler(self, client: tinker.SamplingClient) -> TinkerSampler:
        return TinkerSampler(client, self._tokenizer, place_of(self._settings), self._settings.timeout_seconds)

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def close(self) -> None:
        """Finish the session, so that the service frees it. One that does not answer any more is left to its heartbeat."""
        closing = self._service.close("success")
        try:
            await asyncio.wait_for(asyncio.wrap_future(closing.future()), CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - whatever is wrong with the server, the run has ended
            return

    def _result(self, submitted: tinker.APIFuture[WireT], doing: str, read: Callable[[WireT], ResultT]) -> Awaitable[ResultT]:
        """Waits in a task of its own, so that nobody has to await for the clock to run."""

        async def wait() -> ResultT:
            found = await _wait(submitted.future(), doing, place_of(self._settings), self._settings.timeout_seconds, self._report)
            return read(found)

        return _task(wait())


class TinkerSampler:
    """Samples from one saved set of weights."""

    def __init__(self, client: tinker.SamplingClient, tokenizer: Any, place: str, timeout_seconds: float) -> None:
        self._client = client
        self._place = place
        self._timeout = timeout_seconds
        end = getattr(tokenizer, "eos_token_id", None)
        self._end_of_turn = {} if end is None else {int(end): str(tokenizer.decode([end]))}

    async def sample_async(
        self,
        *,
        prompt: Sequence[int],
        params: SamplingParams,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> SampleResult:
        import tinker

        from recipes.backends.tinker import wire

        if not len(prompt):
            raise ConfigError("A prompt needs at least one token.", path=("prompt",))
        submitted = self._client.sample(
            prompt=tinker.ModelInput.from_ints([int(token) for token in prompt]),
            num_samples=num_samples,
            sampling_params=wire.sampling_to_wire(params, self._end_of_turn),
            include_prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
        )
        return wire.sample_from_wire(await _wait(submitted.future(), "sampling", self._place, self._timeout))

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        import tinker

        submitted = self._client.compute_logprobs(tinker.ModelInput.from_ints([int(token) for token in prompt]))
        found: list[float | None] = await _wait(submitted.future(), "scoring a prompt", self._place, self._timeout)
        return found


def import_sdk() -> Any:
    """The `tinker` package, with its telemetry off unless the operator turned it on. Raises ConfigError where it is missing."""
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    logging.getLogger("tinker").setLevel(logging.ERROR)  # it warns at every poll of a request that still waits
    try:
        import tinker
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"The tinker backend needs {missing.name}, which is not installed here. Install requirements.txt.",
            path=("backend", "kind"),
        ) from None
    return tinker


def chosen_key(settings: TinkerConfig, secrets: Mapping[str, str]) -> str:
    """The key to send. The operator's own key goes to the hosted service only, never to an address that a user typed.
    Raises ConfigError when the hosted service would be called without one."""
    if stored := secrets.get("backend_api_key"):
        return stored
    if settings.base_url is not None:
        return KEYLESS
    if key := os.environ.get(KEY_VARIABLE):
        return key
    raise ConfigError(
        f"Tinker needs a key. Store one under Credentials and name it here, or set {KEY_VARIABLE} where the worker runs.",
        path=("backend", "params", "credential"),
    )


def trainable(uri: str) -> str:
    """The training checkpoint of a sampler's: both were saved under one name."""
    return uri.replace("/sampler_weights/", "/weights/", 1) if uri.startswith("tinker://") else uri


def place_of(settings: TinkerConfig) -> str:
    return "Tinker" if settings.base_url is None else f"The server at {urlsplit(settings.base_url).netloc}"


async def _reach(settings: TinkerConfig, place: str) -> None:
    """A server that is not there is found out at once; the SDK would try for minutes before it says so."""
    import httpx

    if settings.base_url is None:
        return
    try:
        async with httpx.AsyncClient(timeout=settings.connect_seconds) as client:
            await client.get(f"{settings.base_url}/api/v1/healthz")
    except httpx.TimeoutException:
        sentence = f"{place} did not answer within {settings.connect_seconds:g} seconds."
        raise BackendError(sentence, permanent=False, kind=ErrorKind.TIMEOUT) from None
    except httpx.HTTPError as error:
        raise BackendError(
            f"{place} cannot be reached ({error}). Is it running, and is the address right?",
            permanent=False,
            kind=ErrorKind.CONNECTION,
        ) from None


async def _wait(
    future: Future[ResultT], doing: str, place: str, longest: float, report: Callable[[str, str], None] | None = None
) -> ResultT:
    """The result, or BackendError. Cancelling the wait cancels the request. Says every NOTE_SECONDS that it still waits."""
    from recipes.backends.tinker.failures import failure_of

    wrapped = asyncio.wrap_future(future)
    waited = 0.0
    try:
        while True:
            pause = min(NOTE_SECONDS, longest - waited)
            done, _ = await asyncio.wait({wrapped}, timeout=pause)
            if done:
                return wrapped.result()
            waited += pause
            if waited >= longest:
                raise BackendError(
                    f"{place} gave no result for {doing} within {longest:g} seconds.", permanent=False, kind=ErrorKind.TIMEOUT
                )
            if report is not None:
                report("info", f"{place} has not answered for {waited:.0f} seconds ({doing}); still waiting.")
    except (asyncio.CancelledError, RecipeError):
        raise
    except Exception as error:  # noqa: BLE001 - the SDK's own kinds are told apart there
        raise failure_of(error, doing, place) from error
    finally:
        if not wrapped.done():
            wrapped.cancel()


def _in_thread(work: Callable[[], ResultT]) -> Future[ResultT]:
    """Runs what the SDK only offers as a blocking call. A daemon, since a server that never answers must not keep the worker."""
    future: Future[ResultT] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="tinker-open", daemon=True).start()
    return future


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
