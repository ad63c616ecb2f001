"""The training engine: one model in one thread. Computes losses and gradients, steps the optimizer, saves and loads.

All methods block and are meant to be called from a single worker thread (`recipes.backends.local.backend` does). A step here
differs from a Trainer's in three ways: the loss is a sum and its gradient is taken by hand at the vocabulary projection, so
that logits exist a chunk at a time; rows are grouped by length into micro-batches, which changes the speed and not the sum;
the log-probability of every target comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes import losses
from recipes.backends.local import adapters, storage
from recipes.backends.local.batching import MicroBatch, collate, plan
from recipes.backends.local.config import LocalConfig, Precision
from recipes.backends.local.loading import choose_device, choose_num_threads, is_out_of_memory, load_model, share
from recipes.backends.local.optimizer import Optimizer
from recipes.backends.local.projection import find_projection
from recipes.chat_templates import load_tokenizer
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, ConfigError, RecipeError
from recipes.types import AdamParams, Array, Datum, ForwardBackwardResult, LossCallable, ModelOutput, OptimStepResult

LossOf = Callable[[Tensor, slice], tuple[float, Tensor]]
"""(C, K) log-probabilities of the positions in the slice → their summed loss and its gradient (C, K)."""

_OVERHEAD = {"cpu": 2.5e7, "cuda": 1e10}
"""Measured: about this many parameters of a layer times tokens take as long as the fixed work of one layer."""


class Engine:
    """`lora_rank` 0 trains all weights. What is trained is float32 whatever the precision of the computation.

    model_name: what the model is called. source: where the frozen weights were read, when that is another place; an adapter
    that is saved names it as its base.
    """

    def __init__(
        self,
        model: Any,
        config: LocalConfig,
        *,
        model_name: str,
        output_dir: Path,
        lora_rank: int,
        seed: int = 0,
        renderer_name: str | None = None,
        source: str | None = None,
    ) -> None:
        self.config = config
        self.model_name = model_name
        self.output_dir = output_dir
        self.lora_rank = lora_rank
        self.renderer_name = renderer_name
        self._source = source or model_name
        self.device = next(model.parameters()).device
        self.plain_model = share(model)
        self._peft_model = self._add_adapters(model, seed) if lora_rank else None
        self.model = model
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._projection = find_projection(model)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.train()
        self._optimizer = Optimizer(self.parameters)
        self._num_pending = 0
        self._lost_gradient: str | None = None

    @classmethod
    def load(cls, config: LocalConfig, model: ModelConfig, algorithm: BaseAlgorithmConfig, output_dir: Path) -> Engine:
        """Load the model, add adapters, take over weights to begin from. Raises ConfigError, CheckpointError, BackendError."""
        device = choose_device(config.device)
        source, adapter = adapters.beginning_of(model, algorithm.lora_rank)
        dtype = torch.bfloat16 if config.dtype is Precision.BFLOAT16 and algorithm.lora_rank else torch.float32
        try:
            loaded = load_model(source, device, dtype)
            num_parameters = sum(parameter.numel() for parameter in loaded.parameters())
            torch.set_num_threads(choose_num_threads(config.num_threads, num_parameters))
            engine = cls(
                loaded,
                config,
                model_name=model.name,
                output_dir=output_dir,
                lora_rank=algorithm.lora_rank,
                seed=algorithm.seed,
                renderer_name=algorithm.renderer_name,
                source=source,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BackendError(
                f"The model {model.name!r} does not fit into this machine's memory. Use bfloat16 with LoRA, or a smaller model.",
                permanent=True,
            ) from error
        if adapter is not None:
            engine.begin_from(adapter)
        return engine

    def begin_from(self, folder: Path) -> None:
        """Take over the weights of an adapter that was saved for sampling. Raises CheckpointError."""
        adapters.load_adapter(self._peft_model, folder)

    def _add_adapters(self, model: Any, seed: int) -> Any:
        peft_model = adapters.add_adapters(model, rank=self.lora_rank, alpha_ratio=self.config.lora_alpha_ratio, seed=seed)
        if self.config.dtype is Precision.FLOAT32:
            adapters.shorten_forward(peft_model)
        return peft_model

    @cached_property
    def tokenizer(self) -> Any:
        """Raises ConfigError when the model has none, or none that can render a chat."""
        return load_tokenizer(self.model_name, renderer_name=self.renderer_name)

    # ------------------------------------------------------------------ losses and gradients

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str | LossCallable, loss_fn_config: Mapping[str, Any] | None = None
    ) -> ForwardBackwardResult:
        """Add this batch's gradient to what has accumulated. If anything fails, all of it is dropped, and the next optim_step
        refuses: half a gradient is never applied. Raises DataError, ConfigError, BackendError."""
        self._num_pending += 1
        try:
            with self._out_of_memory_told(data):
                return self._run(data, loss_fn, loss_fn_config, with_gradient=True)
        except BaseException as error:
            self.lose_gradient(str(error) or type(error).__name__)
            raise

    def lose_gradient(self, why: str) -> None:
        """Drop what has accumulated; the next optim_step refuses and says why."""
        self._optimizer.clear_gradient()
        self._lost_gradient = why

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_fn_config: Mapping[str, Any] | None = None
    ) -> ForwardBackwardResult:
        """The same numbers; gradients are neither computed nor touched."""
        with self._out_of_memory_told(data):
            return self._run(data, loss_fn, loss_fn_config, with_gradient=False)

    def _run(
        self, data: Sequence[Datum], loss_fn: str | LossCallable, loss_fn_config: Mapping[str, Any] | None, *, with_gradient: bool
    ) -> ForwardBackwardResult:
        loss = losses.get(loss_fn) if isinstance(loss_fn, str) else None
        settings = losses.settings_of(loss, loss_fn_config) if loss else {}
        losses.check(data, loss, vocab_size=self.vocab_size, max_positions=self.max_positions)
        outputs: list[dict[str, Array]] = [{} for _ in data]
        total = 0.0
        for indices in plan([datum.num_tokens for datum in data], self.config.max_tokens_per_micro_batch, self._overhead_tokens):
            batch = collate(data, indices, loss, self.device, self._loss_dtype)
            if loss is not None:
                loss_of = _named_loss(loss, batch, settings)
                logprobs, value = self._compute(batch, loss_of, with_gradient=with_gradient)
            else:
                logprobs, value = self._compute_custom(batch, data, _callable(loss_fn), with_gradient=with_gradient)
            total += value
            for index, row in zip(indices, batch.split(logprobs), strict=True):
                outputs[index] = {"logprobs": row}
        return ForwardBackwardResult(loss_fn_outputs=outputs, metrics={"loss:sum": total})

    def _compute(self, batch: MicroBatch, loss_of: LossOf, *, with_gradient: bool) -> tuple[Tensor, float]:
        """(P, K) log-probabilities and the summed loss of one micro-batch; its gradient goes to the parameters."""
        if self._projection is None:
            return self._compute_from_logits(batch, loss_of, with_gradient=with_gradient)
        num_gated = batch.num_gated if with_gradient else 0
        flat = self._hidden_states(batch, with_gradient=num_gated > 0)
        values: list[float] = []

        def gradient_of(logprobs: Tensor, rows: slice) -> Tensor:
            value, gradient = loss_of(logprobs, rows)
            values.append(value)
            return gradient

        with torch.no_grad():
            hidden = flat.detach()[batch.positions]
            rest = self._projection.logprobs(hidden[num_gated:], batch.targets[num_gated:])
            if not num_gated:
                return rest, loss_of(rest[: batch.num_gated], slice(0, batch.num_gated))[0]
            gated, gradient = self._projection.logprobs_and_gradient(hidden[:num_gated], batch.targets[:num_gated], gradient_of)
            hidden_gradient = torch.zeros_like(flat)
            hidden_gradient[batch.positions[:num_gated]] = gradient
        torch.autograd.backward(flat, hidden_gradient)
        return torch.cat([gated, rest]), sum(values)

    def _compute_custom(
        self, batch: MicroBatch, data: Sequence[Datum], loss_fn: LossCallable, *, with_gradient: bool
    ) -> tuple[Tensor, float]:
        """A custom loss sees all of a datum at once: log-probabilities first, then its gradient, then the model's."""
        loss_of = _custom_loss(batch, data, loss_fn, self.device)
        if self._projection is None:
            return self._compute_from_logits(batch, loss_of, with_gradient=with_gradient)
        flat = self._hidden_states(batch, with_gradient=with_gradient)
        with torch.no_grad():
            hidden = flat.detach()[batch.positions]
            logprobs = self._projection.logprobs(hidden, batch.targets)
            value, gradient = loss_of(logprobs, slice(0, len(logprobs)))
            if not with_gradient:
                return logprobs, value
            _, flow = self._projection.logprobs_and_gradient(hidden, batch.targets, lambda _, rows: gradient[rows])
            hidden_gradient = torch.zeros_like(flat)
            hidden_gradient[batch.positions] = flow
        torch.autograd.backward(flat, hidden_gradient)
        return logprobs, value

    def _compute_from_logits(self, batch: MicroBatch, loss_of: LossOf, *, with_gradient: bool) -> tuple[Tensor, float]:
        """For a model whose vocabulary projection is not a plain linear map: one micro-batch's logits, by autograd."""
        with torch.set_grad_enabled(with_gradient), self._autocast():
            logits = self.model(input_ids=batch.input_ids, use_cache=False).logits
            rows = logits.reshape(-1, logits.shape[-1])[batch.positions].to(self._loss_dtype)
            logprobs = rows.log_softmax(-1).gather(1, batch.targets)
        gated = logprobs[: batch.num_gated]
        value, gradient = loss_of(gated.detach(), slice(0, batch.num_gated))
        if with_gradient:
            torch.autograd.backward(gated, gradient)
        return logprobs.detach(), value

    def _hidden_states(self, batch: MicroBatch, *, with_gradient: bool) -> Tensor:
        """(B·L, H): what the vocabulary projection reads."""
        with torch.set_grad_enabled(with_gradient), self._autocast():
            hidden: Tensor = self.model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        return hidden.reshape(-1, hidden.shape[-1])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.dtype is Precision.BFLOAT16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @cached_property
    def vocab_size(self) -> int:
        """Ids below this can be read and predicted."""
        tables = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        return min(int(table.weight.shape[0]) for table in tables if table is not None)

    @cached_property
    def max_positions(self) -> int | None:
        value = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return value if isinstance(value, int) and value > 0 else None

    @cached_property
    def _loss_dtype(self) -> torch.dtype:
        return torch.promote_types(next(self.model.parameters()).dtype, torch.float32)

    @cached_property
    def _overhead_tokens(self) -> int:
        """How many tokens' time one more micro-batch costs: much on a tiny model or a GPU, little on a large one."""
        num_layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", None) or 1
        per_layer = sum(parameter.numel() for parameter in self.plain_model.parameters()) / num_layers
        return 16 + int(_OVERHEAD.get(self.device.type, _OVERHEAD["cpu"]) / per_layer)

    # ------------------------------------------------------------------ optimizer

    def optim_step(self, adam: AdamParams) -> OptimStepResult:
        """Apply and clear the accumulated gradient. Without one nothing moves, and `optim/skipped_no_gradient` is 1.
        Raises BackendError after a forward_backward that failed."""
        if self._lost_gradient is not None:
            reason, self._lost_gradient, self._num_pending = self._lost_gradient, None, 0
            raise BackendError(f"The step was not taken, because its gradient failed: {reason}", permanent=True)
        if not self._num_pending:
            return OptimStepResult(metrics={"optim/grad_norm": 0.0, "optim/skipped_no_gradient": 1.0})
        self._num_pending = 0
        return OptimStepResult(metrics=self._optimizer.step(adam))

    # ------------------------------------------------------------------ saving

    def save_for_sampler(self, name: str) -> Path:
        """checkpoints/<name>/sampler: the adapter in PEFT's format, or the whole model with its tokenizer."""
        target = self._checkpoint_folder(name) / "sampler"
        with storage.new_folder(target) as folder:
            if self._peft_model is not None:
                adapters.save_adapter(self._peft_model, self._source, folder)
            else:
                self.model.save_pretrained(str(folder))
                self._save_tokenizer(folder)
        return target

    def _save_tokenizer(self, folder: Path) -> None:
        try:
            self.tokenizer.save_pretrained(str(folder))
        except RecipeError:  # a model without a tokenizer trains on token ids all the same
            return

    def save_full_state(self, name: str) -> Path:
        """checkpoints/<name>/state: what is trained, optimizer moments, random state. A gradient not yet applied is not saved."""
        target = self._checkpoint_folder(name) / "state"
        with storage.new_folder(target) as folder:
            storage.save_state(folder, self._optimizer, self._facts)
        return target

    def load_full_state(self, uri: str, *, with_optimizer: bool = True) -> None:
        """Go on from `save_full_state`; a relative path counts from the run's folder. Without the optimizer its weights alone
        are taken over. Raises CheckpointError."""
        storage.load_state(self.output_dir / uri, self._optimizer, self._facts, with_moments=with_optimizer)
        self._num_pending, self._lost_gradient = 0, None

    @property
    def _facts(self) -> dict[str, Any]:
        return {"model": self.model_name, "lora_rank": self.lora_rank, "lora_alpha_ratio": self.config.lora_alpha_ratio}

    def _checkpoint_folder(self, name: str) -> Path:
        return self.output_dir.resolve() / "checkpoints" / storage.checked_name(name)

    # ------------------------------------------------------------------ sampling

    def snapshot(self) -> tuple[Any, dict[str, Tensor]]:
        """A plain model to sample with, and the weights to put into it: copies that later steps do not touch."""
        if self._peft_model is not None:
            return self.plain_model, adapters.merged_weights(self._peft_model)
        return self.plain_model, {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def reference(self) -> Any:
        """The model without what is trained here: shared when it is frozen, read again when all weights are trained."""
        if self._peft_model is not None:
            return self.plain_model
        return load_model(self._source, self.device, torch.float32)

    @contextmanager
    def _out_of_memory_told(self, data: Sequence[Datum]) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            longest = max(datum.num_tokens for datum in data)
            raise BackendError(
                f"Out of memory. The longest row has {longest} tokens and max_tokens_per_micro_batch is "
                f"{self.config.max_tokens_per_micro_batch}: lower it, or lower max_seq_len, turn on gradient_checkpointing, "
                "or use bfloat16.",
                permanent=True,
            ) from error


def _callable(loss_fn: str | LossCallable) -> LossCallable:
    if isinstance(loss_fn, str) or not callable(loss_fn):
        raise ConfigError(f"A loss is a name or a callable, not {loss_fn!r}.", path=("loss_fn",))
    return loss_fn


def _named_loss(loss: losses.Loss, batch: MicroBatch, settings: Mapping[str, float]) -> LossOf:
    def loss_of(logprobs: Tensor, rows: slice) -> tuple[float, Tensor]:
        inputs = {name: values[rows] for name, values in batch.inputs.items()}
        with torch.enable_grad():
            leaf = logprobs.detach().requires_grad_()
            value = loss.terms(leaf, inputs, settings).sum()
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient

    return loss_of


def _custom_loss(batch: MicroBatch, data: Sequence[Datum], loss_fn: LossCallable, device: torch.device) -> LossOf:
    """The callable, once per datum of the micro-batch. Raises BackendError when it gives no scalar tensor."""
    metas = [
        {name: torch.from_numpy(np.asarray(values)).to(device) for name, values in data[index].loss_fn_inputs.items()}
        for index in batch.indices
    ]

    def loss_of(logprobs: Tensor, rows: slice) -> tuple[float, Tensor]:
        gradient = torch.zeros_like(logprobs)
        total = 0.0
        start = 0
        for shape, meta in zip(batch.shapes, metas, strict=True):
            stop = start + shape[0]
            own = logprobs[start:stop, 0] if len(shape) == 1 else logprobs[start:stop, : shape[1]]
            with torch.enable_grad():
                leaf = own.detach().clone().requires_grad_()
                value = loss_fn(ModelOutput(logprobs=leaf), meta)
                if not isinstance(value, Tensor) or value.numel() != 1:
                    found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                    raise BackendError(f"The custom loss must return one scalar tensor per datum, not {found}.", permanent=True)
                if value.requires_grad:
                    (own_gradient,) = torch.autograd.grad(value.reshape(()), leaf, allow_unused=True)
                    if own_gradient is not None:
                        gradient[start:stop, : 1 if len(shape) == 1 else shape[1]] = own_gradient.reshape(shape[0], -1)
            total += value.item()
            start = stop
        return total, gradient

    return loss_of
