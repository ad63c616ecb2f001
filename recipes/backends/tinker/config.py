"""The settings of the tinker backend. No SDK here: forms and validation read this in every process."""

from __future__ import annotations

from pydantic import BaseModel, model_validator

from recipes.backends.hosted import HostedSettings
from recipes.config import ModelConfig, knob

SHORTEST_TTL_HOURS = 1.0
LONGEST_TTL_HOURS = 10 * 365 * 24.0


class TinkerConfig(HostedSettings):
    """Where the weights live and how long to wait for them. What is trained is the algorithm's business."""

    base_url: str | None = knob(
        None,
        "Address of a Tinker-compatible server, such as SkyRL's or this program's own; empty is Tinker's hosted service.",
        max_length=1000,
        essential=True,
    )
    credential: str | None = knob(
        None,
        "Name of the stored key to send; empty takes TINKER_API_KEY of the worker for the hosted service, and no key elsewhere.",
        max_length=200,
        essential=True,
    )
    tokenizer: str | None = knob(
        None,
        "Whose tokenizer the model uses: starter, a folder, or a hub id; empty believes the server.",
        max_length=500,
    )
    project_id: str | None = knob(None, "Project on the server that the session is filed under.", max_length=200)
    train_attention: bool = knob(True, "Adapters on the attention layers.")
    train_mlp: bool = knob(True, "Adapters on the feed-forward layers.")
    train_unembedding: bool = knob(True, "Adapters on the vocabulary projection.")
    connect_seconds: float = knob(90.0, "Longest wait for the server to answer at all.", unit="seconds", ge=1, le=3600)
    timeout_seconds: float = knob(
        900.0, "Longest wait for one result, time in the service's queue included.", unit="seconds", ge=1, le=86400
    )
    checkpoint_ttl_hours: float | None = knob(
        None,
        "The server forgets checkpoints after so long; empty keeps them.",
        unit="hours",
        ge=SHORTEST_TTL_HOURS,
        le=LONGEST_TTL_HOURS,
    )

    def switched_off(self, algorithm: BaseModel, model: ModelConfig) -> dict[str, str]:
        """A checkpoint brings its adapters; see `recipes.effects`."""
        if model.init_from_checkpoint is None:
            return {}
        why = "where a run begins from a checkpoint, which brings its own adapters"
        return dict.fromkeys(("lora_rank", "train_attention", "train_mlp", "train_unembedding"), why)

    @model_validator(mode="after")
    def _trains_something(self) -> TinkerConfig:
        if not (self.train_attention or self.train_mlp or self.train_unembedding):
            raise ValueError("nothing would be trained: leave at least one of the three kinds of layers on")
        return self
