"""The server's numbers are the engine's, entry by entry; adapters that train in turn do not meet; silent clients are let go."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tinker
from safetensors.numpy import load

from recipes.backends.local.engine import Engine
from recipes.tinker_server import promises, sessions
from recipes.tinker_server.promises import Failure, Promises
from recipes.tinker_server.sessions import Sessions
from recipes.types import AdamParams
from tests.recipes.tinker_server.test_training import WAIT, datums, sent
from tests.recipes.tinker_stack import KEY

NEARLY_LINEAR = 1.0
"""With an eps this large Adam's step is the gradient times the rate, but for a factor near 1."""
RATE = 0.5


def test_every_entry_of_the_gradient_is_the_engines(training: tinker.TrainingClient, engine: Engine, url: str) -> None:
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters() if parameter.requires_grad}
    data = datums()
    training.forward_backward(sent(data), "cross_entropy")
    training.optim_step(tinker.AdamParams(learning_rate=RATE, eps=NEARLY_LINEAR)).result(timeout=WAIT)
    there = _downloaded(training, url)
    engine.forward_backward(data, "cross_entropy")
    engine.optim_step(AdamParams(RATE, eps=NEARLY_LINEAR))
    moved = max(
        float((parameter.detach() - before[name]).abs().max())
        for name, parameter in engine.model.named_parameters()
        if name in before
    )
    here = load((Path(engine.save_for_sampler("after")) / "adapter_model.safetensors").read_bytes())
    assert set(here) == set(there) and moved > 1e-2
    assert max(np.abs(here[name] - there[name]).max() for name in here) < 1e-5


def _downloaded(training: tinker.TrainingClient, url: str) -> dict[str, np.ndarray]:
    path = training.save_weights_external("entries").result(timeout=WAIT).path
    urls = tinker.RestClient(base_url=url, api_key=KEY).get_external_weights_urls(path).result(timeout=WAIT).urls
    return load(httpx.get(urls["adapter_model.safetensors"]).raise_for_status().content)


def test_prompts_are_scored_in_full_as_training_scores_them(training: tinker.TrainingClient) -> None:
    data = datums(1)
    whole = [*data[0].model_input.tolist(), int(data[0].loss_fn_inputs["target_tokens"][-1])]
    trained = training.forward(sent(data), "cross_entropy").result(timeout=WAIT).loss_fn_outputs[0]["logprobs"].to_numpy()
    sampler = training.save_weights_and_get_sampling_client().result(timeout=WAIT)
    params = tinker.SamplingParams(max_tokens=1)
    asked = sampler.sample(tinker.ModelInput.from_ints(whole), 1, params, include_prompt_logprobs=True, topk_prompt_logprobs=3)
    found = asked.result(timeout=WAIT)
    assert found.prompt_logprobs is not None and found.prompt_logprobs[0] is None
    assert found.prompt_logprobs[1:] == pytest.approx(trained.tolist(), abs=1e-5)
    assert found.topk_prompt_logprobs is not None and len(found.topk_prompt_logprobs) == len(whole)
    for said, likeliest in zip(found.prompt_logprobs[1:], found.topk_prompt_logprobs[1:], strict=True):
        assert likeliest is not None and len(likeliest) == 3 and said is not None
        assert max(logprob for _, logprob in likeliest) >= said - 1e-5


def test_adapters_that_train_in_turn_are_what_each_is_alone(service: tinker.ServiceClient) -> None:
    def made(rank: int) -> tinker.TrainingClient:
        return service.create_lora_training_client("starter", rank=rank, seed=rank).result(timeout=WAIT)

    def step(client: tinker.TrainingClient, rank: int) -> tuple[tinker.APIFuture[tinker.ForwardBackwardOutput], object]:
        gradient = client.forward_backward(sent(datums(3, scale=1 / rank)), "cross_entropy")
        return gradient, client.optim_step(tinker.AdamParams(learning_rate=0.01))

    ranks = (1, 2, 5)
    alone = {}
    for rank in ranks:
        client = made(rank)
        alone[rank] = [step(client, rank)[0].result(timeout=WAIT).metrics["loss:sum"] for _ in range(3)]
    together = {rank: made(rank) for rank in ranks}
    asked = [(rank, step(client, rank)[0]) for _ in range(3) for rank, client in together.items()]
    found: dict[int, list[float]] = {rank: [] for rank in ranks}
    for rank, gradient in asked:
        found[rank].append(gradient.result(timeout=WAIT).metrics["loss:sum"])
    assert found == alone


def test_a_session_without_a_heartbeat_is_ended_and_one_with_it_is_not() -> None:
    kept = Sessions()
    silent, heard = kept.begin("silent"), kept.begin("heard")
    assert kept.silent() == []
    silent.heard_at = heard.heard_at = time.monotonic() - sessions.SILENT_SECONDS - 1
    kept.get(heard.session_id)
    assert kept.silent() == [silent.session_id]


async def _never() -> dict[str, str]:
    await asyncio.sleep(3600)
    return {}


def test_whoever_waits_in_a_session_that_ends_is_told_and_a_poll_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "POLL_SECONDS", 0.05)

    async def play() -> None:
        waiting = Promises()
        request_id = waiting.add("a", _never())
        assert await waiting.fetch(request_id) is None, "asked for again, not refused"
        waiting.drop_session("a")
        outcome = await waiting.fetch(request_id)
        assert isinstance(outcome, Failure) and outcome.category == "user" and "session has ended" in outcome.sentence

    asyncio.run(play())
