"""TRL's names in ours, once: every listed name, those that are not, and the lines that are no step."""

from __future__ import annotations

import math

from recipes.algorithms.trl.metric_names import DPO_NAMES, RL_NAMES, SFT_NAMES


def test_what_every_trainer_logs_goes_by_our_names() -> None:
    logged = {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3, "epoch": 0.25, "num_tokens": 80, "mean_token_accuracy": 0.75}
    assert SFT_NAMES.of_step(logged | {"entropy": 2.0, "aux_loss": 0.1}) == {
        "train/loss": 0.5,
        "train/mean_nll": 0.5,
        "optim/grad_norm": 1.5,
        "optim/lr": 1e-3,
        "progress/epoch": 0.25,
        "tokens/total": 80.0,
        "train/token_accuracy": 0.75,
        "train/entropy": 2.0,
        "train/aux_loss": 0.1,
    }


def test_a_name_that_nobody_listed_passes_under_trl() -> None:
    assert SFT_NAMES.of_step({"loss": 1.0, "brand/new": 3})["trl/brand/new"] == 3.0
    assert SFT_NAMES.of_eval({"eval_brand": 3.0}) == {"trl/eval_brand": 3.0}


def test_numbers_stay_what_they_are_and_words_are_no_metrics() -> None:
    found = SFT_NAMES.of_step({"loss": math.nan, "grad_norm": math.inf, "note": "words"})
    assert math.isnan(found["train/loss"]) and found["optim/grad_norm"] == math.inf and "trl/note" not in found


def test_the_summary_after_the_last_step_is_no_step() -> None:
    summary = {"train_runtime": 3.0, "train_samples_per_second": 8.0, "total_flos": 1e9, "train_loss": 0.4, "epoch": 1.0}
    assert SFT_NAMES.of_step(summary) == {}


def test_an_evaluation_keeps_its_loss_and_loses_its_timing() -> None:
    logged = {"eval_loss": 0.7, "eval_entropy": 1.0, "eval_mean_token_accuracy": 0.5, "eval_runtime": 2.0, "epoch": 1.0}
    assert SFT_NAMES.of_eval(logged | {"eval_samples_per_second": 9.0, "eval_steps_per_second": 3.0, "eval_num_tokens": 7}) == {
        "eval/validation_nll": 0.7,
        "eval/validation_entropy": 1.0,
        "eval/validation_token_accuracy": 0.5,
    }


def test_pairs_are_measured_under_the_names_of_dpo() -> None:
    logged = {"loss": 0.6, "rewards/chosen": 0.1, "rewards/margins": 0.3, "logps/chosen": -4.0, "logits/rejected": 2.0}
    assert DPO_NAMES.of_step(logged) == {
        "train/loss": 0.6,
        "rewards/chosen": 0.1,
        "rewards/margins": 0.3,
        "train/chosen_logprob": -4.0,
        "train/rejected_logits": 2.0,
    }
    held_out = {"eval_loss": 0.5, "eval_rewards/accuracies": 0.9, "eval_rewards/margins": 0.2}
    assert DPO_NAMES.of_eval(held_out) == {
        "eval/validation_loss": 0.5,
        "eval/validation_accuracy": 0.9,
        "eval/validation_margin": 0.2,
    }


def test_rewards_are_measured_under_the_names_of_rl() -> None:
    logged = {"reward": 0.4, "reward_std": 0.5, "frac_reward_zero_std": 0.25, "completions/mean_length": 12.0, "kl": None}
    assert RL_NAMES.of_step(logged | {"rewards/verifier/mean": 0.4, "completions/clipped_ratio": 0.1, "entropy": 0.3}) == {
        "reward/mean": 0.4,
        "reward/std": 0.5,
        "rollout/without_gradient": 0.25,
        "rollout/completion_tokens": 12.0,
        "rollout/truncated": 0.1,
        "rollout/entropy": 0.3,
    }
    held_out = {"eval_reward": 0.5, "eval_loss": 0.0, "eval_reward/correct": 0.4, "eval_rollout/errors": 0.0}
    found = {"eval/validation_reward": 0.5, "eval/validation_correct": 0.4, "eval/validation_errors": 0.0, "trl/eval_loss": 0.0}
    assert RL_NAMES.of_eval(held_out) == found
