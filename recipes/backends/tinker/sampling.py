"""Sampling on Tinker: from one saved set of weights, and from weights that nobody trains here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes.backends.tinker.connection import Connection
from recipes.errors import CheckpointError, ConfigError
from recipes.rendering import load_tokenizer
from recipes.types import SampleResult, SamplingParams

if TYPE_CHECKING:
    import tinker


class TinkerSampler:
    """Samples from one saved set of weights."""

    def __init__(self, client: tinker.SamplingClient, tokenizer: Any, connection: Connection) -> None:
        self._client = client
        self._connection = connection
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
        return wire.sample_from_wire(await self._connection.wait(submitted.future(), "sampling"))

    async def compute_logprobs_async(self, prompt: Sequence[int]) -> list[float | None]:
        import tinker

        submitted = self._client.compute_logprobs(tinker.ModelInput.from_ints([int(token) for token in prompt]))
        found: list[float | None] = await self._connection.wait(submitted.future(), "scoring a prompt")
        return found


class TinkerWeights:
    """A checkpoint and the base it was trained from, opened to be sampled from: no adapter is made and none is loaded."""

    def __init__(self, connection: Connection, tuned: tinker.SamplingClient | None, tokenizer: Any, *, base_model: str) -> None:
        self._connection = connection
        self._tuned = tuned
        self._tokenizer = tokenizer
        self._base_model = base_model

    @classmethod
    async def open(cls, connection: Connection, model_name: str, checkpoint: str | None) -> TinkerWeights:
        """checkpoint: a tinker:// address, or None for the base alone. Raises ConfigError, BackendError."""
        if checkpoint is not None and not checkpoint.startswith("tinker://"):
            raise CheckpointError(f"{checkpoint} is no checkpoint of Tinker; its addresses begin with tinker://.")
        client = await connection.call(
            lambda: connection.service.create_sampling_client(
                model_path=checkpoint, base_model=None if checkpoint else model_name
            ).result(),
            f"opening {checkpoint or model_name}",
        )
        base_model = client.get_base_model() or model_name
        tokenizer = await _tokenizer_of(connection, base_model)
        return cls(connection, client if checkpoint else None, tokenizer, base_model=base_model)

    async def snapshot_sampling_client(self, name: str | None = None) -> TinkerSampler:
        """On the checkpoint; on the base where none was given."""
        return self._sampler(self._tuned) if self._tuned is not None else await self.reference_sampling_client()

    async def reference_sampling_client(self) -> TinkerSampler:
        return self._sampler(await base_client(self._connection, self._base_model))

    def _sampler(self, client: tinker.SamplingClient) -> TinkerSampler:
        return TinkerSampler(client, self._tokenizer, self._connection)

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def close(self) -> None:
        await self._connection.close()


async def base_client(connection: Connection, base_model: str) -> tinker.SamplingClient:
    """A client on the frozen base. Raises BackendError."""
    made = connection.service.create_sampling_client(base_model=base_model)
    return await connection.wait(made.future(), "the frozen base model")


async def _tokenizer_of(connection: Connection, base_model: str) -> Any:
    """The tokenizer that the settings name, or the model's. A server of ours serves models under names of its own, and says
    among its models whose tokenizer each has; the SDK does not read that. Raises ConfigError."""
    settings = connection.settings
    named = settings.tokenizer or (await _told_tokenizer(connection, base_model) if settings.base_url else None)
    return load_tokenizer(named or base_model)


async def _told_tokenizer(connection: Connection, base_model: str) -> str | None:
    import httpx

    settings = connection.settings
    async with httpx.AsyncClient(timeout=settings.connect_seconds, headers={"X-API-Key": connection.key}) as client:
        try:
            answer = await client.get(f"{settings.base_url}/api/v1/get_server_capabilities")
            models = answer.raise_for_status().json()["supported_models"]
            told = next((each.get("tokenizer_id") for each in models if each.get("model_name") == base_model), None)
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            return None
    return told if isinstance(told, str) else None
