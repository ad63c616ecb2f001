"""Order, repetition, sessions and checkpoints, as the protocol has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import peft
import pytest
import tinker
import transformers

from recipes.backends.local.models import STARTER_FOLDER
from tests.recipes.tinker_server.test_training import ADAM, WAIT, datums, sent
from tests.recipes.tinker_stack import KEY


def begun(raw: httpx.Client, rank: int = 2) -> str:
    """A model made by hand; its id."""
    session = raw.post("create_session", json={"tags": [], "sdk_version": "0"}).json()["session_id"]
    body = {"session_id": session, "model_seq_id": 0, "base_model": "starter", "lora_config": {"rank": rank, "seed": 1}}
    made = raw.post("create_model", json=body).json()
    assert raw.post("create_model", json=body).json() == made, "asked for twice, made once"
    assert fetched(raw, made)["model_id"] == made["model_id"] == f"{session}:train:0"
    return str(made["model_id"])


def fetched(raw: httpx.Client, promise: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = raw.post("retrieve_future", json={"request_id": promise["request_id"]}).json()
    return answer


def gradient(model_id: str, seq_id: int, weight: float = 1.0) -> dict[str, Any]:
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": [6, 7, 8], "dtype": "int64", "shape": [3]},
            "weights": {"data": [weight] * 3, "dtype": "float32", "shape": [3]},
        },
    }
    return {
        "model_id": model_id,
        "seq_id": seq_id,
        "forward_backward_input": {"data": [datum], "loss_fn": "cross_entropy"},
    }


def test_requests_are_done_by_number_whatever_their_order_and_once_however_often_they_come(raw: httpx.Client) -> None:
    model_id = begun(raw)
    step = {"model_id": model_id, "seq_id": 3, "adam_params": {"learning_rate": 0.0}}
    later = raw.post("optim_step", json=step).json()
    second = raw.post("forward_backward", json=gradient(model_id, 2)).json()
    first = raw.post("forward_backward", json=gradient(model_id, 1)).json()
    assert raw.post("forward_backward", json=gradient(model_id, 1)).json() == first
    once, twice = fetched(raw, first)["metrics"]["loss:sum"], fetched(raw, second)["metrics"]["loss:sum"]
    norm = fetched(raw, later)["metrics"]["grad_norm"]
    assert once == twice
    alone = raw.post("forward_backward", json=gradient(model_id, 4)).json()
    step = raw.post("optim_step", json=step | {"seq_id": 5}).json()
    assert fetched(raw, alone)["metrics"]["loss:sum"] == once
    assert norm == pytest.approx(2 * fetched(raw, step)["metrics"]["grad_norm"], rel=1e-5), "two gradients, not three"
    other = raw.post("forward_backward", json=gradient(model_id, 1, weight=2.0))
    assert other.status_code == 409 and "was another one" in other.json()["detail"]


def test_results_come_as_json_to_whoever_does_not_ask_for_protobuf(raw: httpx.Client) -> None:
    model_id = begun(raw)
    found = fetched(raw, raw.post("forward_backward", json=gradient(model_id, 1)).json())
    assert len(found["loss_fn_outputs"][0]["logprobs"]["data"]) == 3
    json.dumps(found, allow_nan=False)


def test_a_finished_session_frees_its_models_and_its_heartbeat_ends(raw: httpx.Client) -> None:
    model_id = begun(raw)
    session = model_id.split(":")[0]
    assert raw.post("session_heartbeat", json={"session_id": session}).status_code == 200
    assert raw.post(f"sessions/{session}/finish", json={"status": "success"}).status_code == 200
    assert raw.post("session_heartbeat", json={"session_id": session}).status_code == 410
    assert raw.post("forward_backward", json=gradient(model_id, 1)).status_code == 404
    assert raw.post(f"sessions/{session}/finish", json={}).status_code == 200, "once more does no harm"


def test_training_goes_on_from_a_checkpoint_with_or_without_its_optimizer(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    data = sent(datums())

    def step(client: tinker.TrainingClient) -> float:
        found = client.forward_backward(data, "cross_entropy")
        client.optim_step(ADAM).result(timeout=WAIT)
        return found.result(timeout=WAIT).metrics["loss:sum"]

    for _ in range(3):
        step(training)
    path = training.save_state("half").result(timeout=WAIT).path
    expected = [step(training) for _ in range(2)]
    whole = service.create_training_client_from_state_with_optimizer(path).result(timeout=WAIT)
    assert [step(whole) for _ in range(2)] == expected
    bare = service.create_training_client_from_state(path).result(timeout=WAIT)
    found = [step(bare) for _ in range(2)]
    assert found[0] == expected[0] and found[1] != expected[1]


def test_an_older_client_loads_into_the_model_that_it_made(raw: httpx.Client) -> None:
    """Tinker 0.23, which Fireworks' SDK speaks."""

    def loss(model_id: str, seq_id: int) -> float:
        return float(fetched(raw, raw.post("forward_backward", json=gradient(model_id, seq_id)).json())["metrics"]["loss:sum"])

    first, second, other = begun(raw), begun(raw), begun(raw, rank=3)
    before = loss(first, 1)
    raw.post("optim_step", json={"model_id": first, "seq_id": 2, "adam_params": {"learning_rate": 0.05}})
    saved = fetched(raw, raw.post("save_weights", json={"model_id": first, "seq_id": 3, "path": "older"}).json())["path"]
    asked = {"model_id": second, "seq_id": 1, "path": saved, "optimizer": True, "type": "load_weights"}
    loaded = raw.post("load_weights", json=asked).json()
    assert raw.post("load_weights", json=asked).json() == loaded and fetched(raw, loaded)["path"] == saved
    assert loss(second, 2) == loss(first, 4) != before
    refused = raw.post("load_weights", json={**asked, "model_id": other})
    assert "with rank 2" in fetched(raw, refused.json())["error"]
    assert loss(other, 2) == pytest.approx(before, rel=0.5), "its number is used up, and the next is not waited for"


def test_a_snapshot_stays_while_training_goes_on(training: tinker.TrainingClient) -> None:
    data = sent(datums())
    prompt = tinker.ModelInput.from_ints(datums(1)[0].model_input.tolist())
    sampler = training.save_weights_and_get_sampling_client().result(timeout=WAIT)
    before = sampler.compute_logprobs(prompt).result(timeout=WAIT)
    assert len(before) == len(prompt.to_ints()) and before[0] is None
    training.forward_backward(data, "cross_entropy")
    training.optim_step(ADAM).result(timeout=WAIT)
    assert sampler.compute_logprobs(prompt).result(timeout=WAIT) == before
    after = training.save_weights_and_get_sampling_client().result(timeout=WAIT)
    assert after.compute_logprobs(prompt).result(timeout=WAIT) != before


def test_the_same_seed_says_the_same_and_samples_of_one_request_differ(service: tinker.ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model="starter").result(timeout=WAIT)
    prompt = tinker.ModelInput.from_ints(datums(1)[0].model_input.tolist()[:12])
    params = tinker.SamplingParams(max_tokens=16, seed=4, temperature=1.0)
    one, two = [sampler.sample(prompt, 4, params).result(timeout=WAIT) for _ in range(2)]
    assert [each.tokens for each in one.sequences] == [each.tokens for each in two.sequences]
    assert len({tuple(each.tokens) for each in one.sequences}) > 1
    scored = sampler.sample(prompt, 1, params, include_prompt_logprobs=True, topk_prompt_logprobs=2, prompt_logprobs_last_n=3)
    found = scored.result(timeout=WAIT)
    assert found.prompt_logprobs is not None and [value is None for value in found.prompt_logprobs] == [True] * 9 + [False] * 3


def test_checkpoints_are_listed_kept_for_a_time_downloaded_and_deleted(
    training: tinker.TrainingClient, url: str, tmp_path: Path
) -> None:
    training.forward_backward(sent(datums()), "cross_entropy")
    training.optim_step(ADAM).result(timeout=WAIT)
    state = training.save_state("kept", ttl_seconds=7200).result(timeout=WAIT).path
    sampler = training.save_weights_for_sampler("kept").result(timeout=WAIT).path
    external = training.save_weights_external("taken").result(timeout=WAIT).path
    assert "already" in str(_failure(lambda: training.save_state("kept").result(timeout=WAIT)))
    training.save_state("kept", overwrite=True).result(timeout=WAIT)
    rest = tinker.RestClient(base_url=url, api_key=KEY)
    listed = rest.list_checkpoints(training.model_id).result(timeout=WAIT).checkpoints
    assert {each.tinker_path for each in listed} == {state, sampler, external}
    assert all(each.size_bytes for each in listed)
    assert rest.get_training_run(training.model_id).result(timeout=WAIT).lora_rank == 4
    urls = rest.get_external_weights_urls(external).result(timeout=WAIT).urls
    for name, address in urls.items():
        (tmp_path / name).write_bytes(httpx.get(address).raise_for_status().content)
    base = transformers.AutoModelForCausalLM.from_pretrained(STARTER_FOLDER)
    peft.PeftModel.from_pretrained(base, str(tmp_path))
    forged = next(iter(urls.values())).replace("signature=", "signature=0")
    assert httpx.get(forged).status_code == 403
    rest.delete_checkpoint_from_tinker_path(sampler).result(timeout=WAIT)
    left = rest.list_checkpoints(training.model_id).result(timeout=WAIT).checkpoints
    assert {each.tinker_path for each in left} == {state, external}


def _failure(work: Any) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011, B017 - its text is asserted
        work()
    return caught.value
