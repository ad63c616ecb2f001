"""The calls that tinker-cookbook's sl_loop and rl_loop make, in their order, to the end: loss goes down, reward goes up.

The loops themselves are run by `benchmarks/cookbook.py`, which says why they are no requirement of the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tinker
import torch

from recipes import starter
from recipes.backends.tinker import wire
from recipes.rendering import datum_of, load_tokenizer, render, render_prompt
from tests.recipes.tinker_server.test_training import WAIT
from tests.recipes.tinker_stack import KEY

ROWS = Path(starter.__file__).parent / "rows"
WEEK = 7 * 24 * 3600


def rows(name: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROWS / name).read_text().splitlines()[:count]]


def adam(rate: float) -> tinker.AdamParams:
    return tinker.AdamParams(learning_rate=rate, beta1=0.9, beta2=0.95, eps=1e-8)


def save(client: tinker.TrainingClient, name: str, ttl: int | None, *, both: bool = False) -> tuple[str, str]:
    """State and sampler weights are asked for together."""
    state = client.save_state(name, ttl_seconds=ttl)
    sampler = client.save_weights_for_sampler(name, ttl_seconds=ttl) if both else None
    return state.result(timeout=WAIT).path, sampler.result(timeout=WAIT).path if sampler else ""


def mean_nll(found: tinker.ForwardBackwardOutput, batch: list[tinker.Datum]) -> float:
    logprobs = torch.cat([each["logprobs"].to_torch() for each in found.loss_fn_outputs])
    weights = torch.cat([each.loss_fn_inputs["weights"].to_torch() for each in batch])
    return float(-(logprobs * weights).sum() / weights.sum())


def supervised_steps(client: tinker.TrainingClient, batches: list[list[tinker.Datum]], start: int, stop: int) -> list[float]:
    losses = []
    for step in range(start, stop):
        batch = batches[step % len(batches)]
        gradient = client.forward_backward(batch, loss_fn="cross_entropy")
        update = client.optim_step(adam(1e-2 * (1 - step / 12)))
        losses.append(mean_nll(gradient.result(timeout=WAIT), batch))
        assert update.result(timeout=WAIT).metrics
    return losses


def test_supervised_learning_goes_down_saves_with_a_lifetime_and_goes_on_from_there(url: str) -> None:
    tokenizer = load_tokenizer("starter")
    data = [wire.datum_to_wire(datum_of(render(row["messages"], tokenizer))) for row in rows("train.jsonl", 64)]
    batches = [data[start : start + 16] for start in range(0, 64, 16)]
    service = tinker.ServiceClient(base_url=url, api_key=KEY, user_metadata={"recipe": "sl"}, display_name="supervised")
    client = service.create_lora_training_client(base_model="Qwen/Qwen3-8B", rank=8).result(timeout=WAIT)
    first = supervised_steps(client, batches, 0, 4)
    state, _ = save(client, "000004", WEEK)
    straight = supervised_steps(client, batches, 4, 12)
    final, sampler = save(client, "final", None, both=True)
    service.close("success").result(timeout=WAIT)
    assert np.mean(straight[-4:]) < 0.7 * np.mean(first)

    with tinker.ServiceClient(base_url=url, api_key=KEY) as later:
        resumed = later.create_training_client_from_state_with_optimizer(state).result(timeout=WAIT)
        assert supervised_steps(resumed, batches, 4, 12) == straight, "another session goes on as if it were the same"
        found = tinker.RestClient(base_url=url, api_key=KEY).list_checkpoints(final.split("/")[2]).result(timeout=WAIT)
        expiring = {each.tinker_path: each.expires_at is not None for each in found.checkpoints}
        assert expiring == {state: True, final: False, sampler: False}


def test_reinforcement_earns_more_and_more(url: str) -> None:
    tokenizer = load_tokenizer("starter")
    tasks = rows("tasks_train.jsonl", 192)
    with tinker.ServiceClient(base_url=url, api_key=KEY, display_name="reinforced") as service:
        client = service.create_lora_training_client(base_model="Qwen/Qwen3-8B", rank=8).result(timeout=WAIT)
        rewards = [_reinforced_step(client, tokenizer, tasks[start : start + 24]) for start in range(0, 192, 24)]
        save(client, "final", None, both=True)
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1


def _reinforced_step(client: tinker.TrainingClient, tokenizer: Any, tasks: list[dict[str, Any]]) -> float:
    """Mean reward of a step: every group is asked for before the first is awaited."""
    sampler = client.save_weights_and_get_sampling_client(record_stability_info=False).result(timeout=WAIT)
    params = tinker.SamplingParams(max_tokens=64, stop=[tokenizer.eos_token_id])
    prompts = [tinker.ModelInput.from_ints(render_prompt(task["messages"], tokenizer)) for task in tasks]
    asked = [sampler.sample(prompt=prompt, num_samples=8, sampling_params=params) for prompt in prompts]
    data, earned = [], []
    for task, prompt, future in zip(tasks, prompts, asked, strict=True):
        sequences = future.result(timeout=WAIT).sequences
        rewards = np.array(
            [_reward(tokenizer.decode(each.tokens, skip_special_tokens=True), task["answer"]) for each in sequences]
        )
        earned.append(rewards.mean())
        for sequence, advantage in zip(sequences, rewards - rewards.mean(), strict=True):
            if rewards.min() < rewards.max():
                data.append(_datum(prompt, sequence, float(advantage)))
    gradient, update = client.forward_backward(data, loss_fn="importance_sampling"), client.optim_step(adam(3e-3))
    gradient.result(timeout=WAIT)
    update.result(timeout=WAIT)
    return float(np.mean(earned))


def _reward(reply: str, answer: int) -> float:
    found = re.findall(r"-?\d+", reply)
    return float(bool(found) and int(found[-1]) == answer)


def _datum(prompt: tinker.ModelInput, sequence: tinker.SampledSequence, advantage: float) -> tinker.Datum:
    """The prompt in one chunk and the reply in another; targets of the prompt are 0 and earn nothing."""
    assert sequence.logprobs is not None
    before = prompt.length - 1
    sampled = len(sequence.tokens)
    return tinker.Datum(
        model_input=prompt.append(tinker.EncodedTextChunk(tokens=sequence.tokens[:-1])),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_torch(torch.tensor([0] * before + sequence.tokens)),
            "logprobs": tinker.TensorData.from_torch(torch.tensor([0.0] * before + sequence.logprobs)),
            "advantages": tinker.TensorData.from_torch(torch.tensor([0.0] * before + [advantage] * sampled)),
        },
    )
