"""The settings of everything that learns from verified attempts, whoever takes the steps."""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_validator

from recipes.config import BaseAlgorithmConfig, knob, validated
from recipes.registry import verifiers
from recipes.rendering import check_renderer
from recipes.token_use import Range, TokenUse


class RewardedConfig(BaseAlgorithmConfig):
    """Without the environment and the loss."""

    learning_rate: float = knob(1e-5, "Peak Adam step size.", gt=0, le=1, essential=True)
    batch_size: int = knob(8, "Tasks per step, each with a group of attempts.", unit="tasks", ge=1, le=65536, essential=True)
    num_samples: int = knob(8, "Attempts per task, compared with each other.", unit="attempts", ge=1, le=1024, essential=True)
    verifier_name: str = knob(
        "exact_match",
        "What rewards a reply to a problem: exact_match, contains, regex_match, numeric, math, json_schema, tool_calls_match or"
        " format_only. A task's own verifier wins.",
        max_length=100,
        essential=True,
    )
    verifier_params: dict[str, Any] = knob({}, "Settings of that verifier.")
    max_tokens: int = knob(256, "Longest reply of a turn.", unit="tokens", ge=1, le=1_000_000, essential=True)
    temperature: float = knob(1.0, "How freely replies are drawn. At 1 they are drawn from what is trained.", gt=0, le=10)
    system_prompt: str | None = knob(
        None, "Put before the conversation of every task that has no system message.", max_length=100_000
    )
    divide_by_std: bool = knob(False, "Divide each advantage by the spread of its group's rewards.")
    validation_fraction: float = knob(
        0.0, "Share of the tasks held out to measure the reward on; 0 holds out none.", ge=0, le=0.5
    )
    validation_every: int = knob(
        0, "Measure held-out tasks every so many steps; 0 measures them once per epoch.", unit="steps", ge=0, le=10_000_000
    )
    validation_samples: int = knob(4, "Attempts per held-out task.", unit="attempts", ge=1, le=1024)
    rollouts_kept: int = knob(
        32,
        "Attempts of each step that are written to rollouts.jsonl, in whole groups; 0 writes none.",
        unit="attempts",
        ge=0,
        le=1024,
    )

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse | None:
        return self.use_of_attempts(row, reply or Range(1, self.max_tokens))

    def use_of_attempts(self, row: Range, said: Range, *, turns: int = 1) -> TokenUse:
        """Of a task's group, all of it trained on. said: by one attempt, over all of its turns. A group's attempts may share the
        reading of their prompt, or not; each turn reads everything before it again."""
        most_read = turns * row.high + (turns - 1) * said.high
        return TokenUse(
            train=row.plus(said).times(self.num_samples),
            prefill=Range(row.low, self.num_samples * most_read),
            sample=said.times(self.num_samples),
        )

    _renderer_exists = field_validator("renderer_name")(check_renderer)

    @field_validator("verifier_name")
    @classmethod
    def _verifier_judges_here(cls, name: str) -> str:
        if verifiers.get(name).asks_service:
            raise ValueError(f"{name} asks a service about every reply, which training does not do; choose one that judges here")
        return name

    @model_validator(mode="after")
    def _verifier_takes_its_settings(self) -> Self:
        validated(verifiers.get(self.verifier_name).Config, self.verifier_params, ("verifier_params",))
        return self
