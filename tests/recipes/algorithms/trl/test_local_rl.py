"""TRL's GRPOTrainer on the starter: rewards of our verifiers, rollouts, a stop and a resume, what cannot be judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.algorithms.trl.rl_drift import Recorder, drift_sums
from recipes.errors import ConfigError, VerifierError
from recipes.estimate import estimate
from recipes.trajectories import drift
from recipes.types import Datum, ForwardBackwardResult, Row
from recipes.verifiers import Numeric
from tests.recipes.algorithms.trl.test_local_sft import close, same_weights, trl_config
from tests.recipes.runs_under_test import Witness, run


def tasks(count: int = 6) -> list[Row]:
    return [
        {"task_id": f"sum-{a}", "messages": [{"role": "user", "content": f"What is {a} + 38?"}], "answer": str(a + 38)}
        for a in range(11, 11 + count)
    ]


def rl_config(**params: Any) -> Any:
    defaults = {"batch_size": 2, "num_samples": 4, "max_tokens": 24, "verifier_name": "numeric", "learning_rate": 1e-3}
    return trl_config("local_rl", **{**defaults, "validation_fraction": 0.17, "validation_samples": 2, **params})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Witness]:
    """Four steps over two epochs of five tasks, one of which TRL leaves out each time; a sixth is held out."""
    folder, witness = tmp_path_factory.mktemp("whole"), Witness()
    result = run(rl_config(), folder, witness, rows=tasks())
    assert (result.status, result.error, result.steps) == ("completed", None, 4)
    return folder, witness


def test_the_metrics_are_those_of_rl_under_its_names(whole: tuple[Path, Witness]) -> None:
    witness = whole[1]
    for metrics in witness.steps.values():
        assert {"reward/mean", "reward/std", "reward/correct", "rollout/without_gradient", "rollout/entropy"} <= metrics.keys()
        assert {"rollout/completion_tokens", "rollout/truncated", "optim/lr", "optim/grad_norm", "train/loss"} <= metrics.keys()
        assert metrics["rollout/errors"] == 0 and 0 <= metrics["reward/mean"] <= 1
        assert 1 <= metrics["rollout/completion_tokens"] <= 24
    assert {"eval/validation_reward", "eval/validation_correct"} <= witness.evals[2].keys()


def test_the_sampler_is_compared_with_the_trainer_at_any_temperature(whole: tuple[Path, Witness], tmp_path: Path) -> None:
    witness = Witness()
    warmer = rl_config(temperature=1.7, rows_at_once=4, batch_size=4, max_steps=2, validation_fraction=0, lora_rank=0)
    assert run(warmer, tmp_path, witness, rows=tasks()).error is None
    measured = [row for row in [*whole[1].steps.values(), *witness.steps.values()] if "kl/sampler" in row]
    assert len(measured) > 2, "only a step in which no group has a gradient measures nothing"
    for row in measured:  # another temperature on either side would be whole nats
        assert row["kl/sampler"] == pytest.approx(0, abs=1e-6)
        assert row["train/ratio_mean"] == pytest.approx(1, abs=1e-3) and row["train/ratio_max"] == pytest.approx(1, abs=1e-2)


def test_the_measure_is_that_of_rl() -> None:
    rng = np.random.default_rng(3)
    trained, sampled = (np.log(rng.uniform(0.01, 1, (3, 5))).astype(np.float32) for _ in range(2))
    advantages = [1.0, 0.0, -0.5]
    data = [
        Datum(np.zeros(5, np.int64), {"logprobs": row, "advantages": np.full(5, advantage, np.float32)})
        for row, advantage in zip(sampled, advantages, strict=True)
    ]
    expected = drift(data, ForwardBackwardResult([{"logprobs": row} for row in trained], {}), low=0, high=10)
    taught = torch.tensor(advantages)[:, None].expand(3, 5) != 0
    (divergence, ratio, count), highest = drift_sums(torch.tensor(trained), torch.tensor(sampled), taught)
    found = {"kl/sampler": divergence / count, "train/ratio_mean": ratio / count, "train/ratio_max": highest}
    assert {key: float(value) for key, value in found.items()} == pytest.approx({key: expected[key] for key in found})
    assert float(drift_sums(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool())[1]) == 0


def test_what_the_sampler_thought_is_known_also_where_passes_follow_that_mean_nothing() -> None:
    """Where processes wait for each other's replies, all go on until the longest is done."""

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> Any:
            seen = torch.arange(7.0) * (1 + input_ids.sum(dim=1, keepdim=True))
            return SimpleNamespace(logits=(seen / 10)[:, None])

    model, prompt, drawn = Model(), torch.tensor([[1], [2]]), torch.tensor([[3, 4, 5], [6, 0, 0]])

    def heard(num_idle: int) -> list[list[float]] | None:
        with Recorder(model, 1.0) as seen:
            for tokens in [prompt, *drawn[:, :2].split(1, dim=1), *[drawn[:, 2:]] * num_idle]:
                model(input_ids=tokens)
        return seen.logprobs([[3, 4, 5], [6]])

    assert [len(row) for row in heard(0) or []] == [3, 1]
    assert heard(0) == heard(1) == heard(3)


def test_what_was_said_is_kept_with_what_it_earned(whole: tuple[Path, Witness]) -> None:
    folder, witness = whole
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [(line["step"], line["num_groups"], line["num_rollouts"]) for line in lines] == [(step, 2, 8) for step in (1, 2, 3, 4)]
    for line in lines:
        rollouts = [rollout for group in line["groups"] for rollout in group["rollouts"]]
        mean = sum(rollout["reward"] for rollout in rollouts) / len(rollouts)
        assert mean == pytest.approx(witness.steps[line["step"]]["reward/mean"])
        for group in line["groups"]:
            assert sum(rollout["advantage"] for rollout in group["rollouts"]) == pytest.approx(0, abs=1e-6)
            assert {rollout["messages"][-1]["role"] for rollout in group["rollouts"]} == {"assistant"}


def test_n_steps_a_stop_and_m_steps_are_as_one_run_beyond_an_epoch(tmp_path: Path, whole: tuple[Path, Witness]) -> None:
    first, second = Witness(stop_after=3), Witness()
    assert run(rl_config(), tmp_path, first, rows=tasks()).status == "cancelled"
    result = run(rl_config(), tmp_path, second, rows=tasks(), resume=True)
    assert (result.status, second.start_step, list(second.steps)) == ("completed", 3, [4])
    untimed = [
        {step: {key: value for key, value in row.items() if not key.startswith("time/")} for step, row in steps.items()}
        for steps in (first.steps | second.steps, whole[1].steps)
    ]
    assert close(*untimed)
    assert same_weights(tmp_path, whole[0])
    assert [json.loads(line)["step"] for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_reply_that_cannot_be_judged_is_an_error_and_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, calls = Numeric.verify, []

    def breaks(self: Numeric, completion: str, expected: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) % 4 == 1:
            raise VerifierError("the judge is out") if len(calls) > 1 else ZeroDivisionError("a bug")
        return verify(self, completion, expected, **named)

    monkeypatch.setattr(Numeric, "verify", breaks)
    witness = Witness()
    run(rl_config(max_steps=1, validation_fraction=0), tmp_path, witness, rows=tasks())
    (line,) = (json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines())
    rewards = [rollout["reward"] for group in line["groups"] for rollout in group["rollouts"]]
    assert len(rewards) == 6 and witness.steps[1]["rollout/errors"] == 2
    assert witness.steps[1]["reward/mean"] == pytest.approx(sum(rewards) / 6), "a mean over what was judged"
    told = [message for level, message in witness.events if level == "warning" and "judged" in message]
    assert len(told) == 1 and "2 attempts of step 1 could not be judged" in told[0] and "ZeroDivisionError: a bug" in told[0]


def test_attempts_computed_in_several_passes_are_one_step(tmp_path: Path) -> None:
    witness = Witness()
    result = run(rl_config(rows_at_once=4, max_steps=1, kl_beta=0.1), tmp_path, witness, rows=tasks())
    assert (result.status, result.steps, list(witness.steps)) == ("completed", 1, [1])
    assert witness.steps[1]["kl/reference"] == pytest.approx(0, abs=1e-5)


def test_fewer_tasks_than_a_step_takes_are_refused(tmp_path: Path) -> None:
    result = run(rl_config(batch_size=9), tmp_path, rows=tasks())
    assert result.status == "failed" and "5 tasks to train on, and a step takes batch_size 9" in (result.error or "")


def test_rows_that_are_no_tasks_are_refused_with_their_number(tmp_path: Path) -> None:
    rows: list[Row] = [*tasks(3), {"prompt": "a", "chosen": "b", "rejected": "c"}]
    result = run(rl_config(), tmp_path, rows=rows)
    assert result.status == "failed" and "row" in (result.error or "").lower()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2"),
        ({"verifier_name": "llm_judge"}, "asks a service"),
        ({"verifier_params": {"nonsense": 1}}, "nonsense"),
        ({"rows_at_once": 3}, "rows_at_once must divide the 8 rows"),
    ],
)
def test_settings_that_cannot_train_are_refused_before_anything_is_read(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        rl_config(**params)


def test_the_estimate_counts_the_steps_that_trl_takes() -> None:
    found = estimate(rl_config(num_epochs=3, batch_size=2), num_rows=5)
    assert (found.steps, found.rows_seen) == (6, 12)
