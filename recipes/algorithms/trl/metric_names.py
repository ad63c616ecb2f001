"""TRL's names of metrics in ours, once. What is not listed passes as trl/<name>, or trl/eval_<name> for what was held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from recipes.types import Metrics

_OF_EVERY_TRAINER = {
    "loss": "train/loss",
    "grad_norm": "optim/grad_norm",
    "learning_rate": "optim/lr",
    "epoch": "progress/epoch",
    "entropy": "train/entropy",
    "aux_loss": "train/aux_loss",
    "mean_token_accuracy": "train/token_accuracy",  # nosec B105 # no password
    "num_tokens": "tokens/total",
}
_EVAL_OF_EVERY_TRAINER = {
    "eval_loss": "eval/validation_loss",
    "eval_entropy": "eval/validation_entropy",
    "eval_mean_token_accuracy": "eval/validation_token_accuracy",  # nosec B105
}
_SUMMARY = frozenset({"train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second", "total_flos"})
"""What a Trainer logs once more when it is done, under the last step: that step is told already."""
_LEFT_OUT = frozenset(
    {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens", "eval_model_preparation_time"}
)


class MetricNames(NamedTuple):
    """What one of the trainers calls its own, besides what all of them log. A value may go by two names of ours, or
    by none.
    counts_on: its number of tokens is part of TRL's checkpoints; else it begins at 0 where a run goes on."""

    own: Mapping[str, str | tuple[str, ...]]
    counts_on: bool = False

    def of_step(self, logged: Mapping[str, Any]) -> Metrics:
        """The metrics of a step; empty for the summary that follows the last one."""
        return {} if _SUMMARY & logged.keys() else self._translated(logged)

    def of_eval(self, logged: Mapping[str, Any]) -> Metrics:
        """The metrics of what was held out; empty when this is no evaluation."""
        found = {name: value for name, value in logged.items() if name.startswith("eval_")}
        return self._translated(found)

    def _translated(self, logged: Mapping[str, Any]) -> Metrics:
        names = {**_OF_EVERY_TRAINER, **_EVAL_OF_EVERY_TRAINER, **self.own}
        metrics: Metrics = {}
        for name, value in logged.items():
            if name in _LEFT_OUT or not isinstance(value, int | float):
                continue
            ours = names.get(name, f"trl/{name}")
            for key in (ours,) if isinstance(ours, str) else ours:
                metrics[key] = float(value)
        return metrics


SFT_NAMES = MetricNames(
    {
        "loss": ("train/loss", "train/mean_nll"),
        "eval_loss": "eval/validation_nll",
    }
)
DPO_NAMES = MetricNames(
    {
        "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected",
        "rewards/margins": "rewards/margins",
        "rewards/accuracies": "rewards/accuracies",
        "logps/chosen": "train/chosen_logprob",
        "logps/rejected": "train/rejected_logprob",
        "logits/chosen": "train/chosen_logits",
        "logits/rejected": "train/rejected_logits",
        "eval_rewards/accuracies": "eval/validation_accuracy",
        "eval_rewards/margins": "eval/validation_margin",
    }
)
RL_NAMES = MetricNames(
    {
        "reward": "reward/mean",
        "reward_std": "reward/std",
        "reward/correct": "reward/correct",
        "frac_reward_zero_std": "rollout/without_gradient",
        "rollout/errors": "rollout/errors",
        "completions/mean_length": "rollout/completion_tokens",
        "completions/clipped_ratio": "rollout/truncated",
        "entropy": "rollout/entropy",
        "kl": "kl/reference",
        "sampling/kl": "kl/sampler",
        "sampling/importance_sampling_ratio/mean": "train/ratio_mean",
        "sampling/importance_sampling_ratio/max": "train/ratio_max",
        "rewards/verifier/mean": (),  # there is one reward function: these say what reward and reward_std say
        "rewards/verifier/std": (),
        "clip_ratio/region_mean": "train/ratio_clipped",
        "step_time": "time/trl_step",
        "eval_loss": "trl/eval_loss",
        "eval_reward": "eval/validation_reward",
        "eval_reward/correct": "eval/validation_correct",
        "eval_rewards/verifier/mean": (),
        "eval_rewards/verifier/std": (),
        "eval_rollout/errors": "eval/validation_errors",
    },
    counts_on=True,
)
