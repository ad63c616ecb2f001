"""What cannot be done is said at once and in a sentence; nobody is left asking for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
import tinker

from recipes.backends.tinker import wire
from recipes.types import Datum
from tests.recipes.tinker_server.test_training import ADAM, WAIT, datums, sent
from tests.recipes.tinker_stack import KEY

IDS = np.arange(3, dtype=np.int64) + 5
ONES = np.ones(3, dtype=np.float32)


def told(work: Callable[[], Any]) -> str:
    """What the SDK raises; it must come at once."""
    began = time.monotonic()
    with pytest.raises((tinker.TinkerError, ValueError)) as caught:
        work()
    assert time.monotonic() - began < 30
    return str(caught.value)


def test_a_model_that_is_not_served_is_named_with_those_that_are(service: tinker.ServiceClient) -> None:
    assert "serves starter" in told(lambda: service.create_lora_training_client("Qwen/Qwen3-4B").result(timeout=WAIT))
    assert "serves starter" in told(lambda: service.create_sampling_client(base_model="nobody").result(timeout=WAIT))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"target_tokens": IDS[:2], "weights": ONES[:2]}, "shape"),
        ({"target_tokens": IDS, "weights": ONES[:2]}, "shape"),
        ({"target_tokens": IDS + 10**6, "weights": ONES}, "vocabulary"),
        ({"target_tokens": IDS}, "lacks weights"),
        ({"target_tokens": IDS, "weights": ONES * np.nan}, "not finite"),
        ({"target_tokens": IDS, "weights": ONES, "mask": ONES}, "does not take"),
    ],
)
def test_a_datum_that_does_not_fit_fails_and_takes_its_step_down(
    training: tinker.TrainingClient, inputs: dict[str, Any], sentence: str
) -> None:
    data = sent(datums())
    before = training.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"]
    gradient = training.forward_backward([wire.datum_to_wire(Datum(IDS, inputs))], "cross_entropy")
    update = training.optim_step(ADAM)
    said = told(lambda: gradient.result(timeout=WAIT))
    assert "Datum 0" in said and sentence in said
    assert "not taken" in told(lambda: update.result(timeout=WAIT))
    assert training.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"] == before
    training.forward_backward(data, "cross_entropy")
    training.optim_step(ADAM).result(timeout=WAIT)
    assert training.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"] < before, "it goes on"


def test_losses_and_their_settings_are_checked(training: tinker.TrainingClient) -> None:
    data = sent(datums(1))
    assert "no loss 'gspo'" in told(lambda: training.forward(data, "gspo").result(timeout=WAIT))
    assert "no setting 'beta'" in told(lambda: training.forward(data, "cross_entropy", {"beta": 1.0}).result(timeout=WAIT))


def test_what_is_refused_when_it_is_sent_holds_up_nobody_behind_it(training: tinker.TrainingClient) -> None:
    data = sent(datums(1))
    before = training.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"]
    for rate, words in ((-1.0, "learning_rate cannot be -1"), (float("nan"), "learning_rate is null")):
        refused = training.optim_step(tinker.AdamParams(learning_rate=rate))
        behind = training.forward(data, "cross_entropy")
        assert words in told(partial(refused.result, timeout=WAIT))
        assert behind.result(timeout=WAIT).metrics["loss:sum"] == before
    wordy: Any = {"beta": "much"}
    gradient = training.forward_backward(data, "dro", wordy)
    update = training.optim_step(ADAM)
    assert "beta is a text" in told(lambda: gradient.result(timeout=WAIT))
    assert "not taken" in told(lambda: update.result(timeout=WAIT))
    assert training.forward(data, "cross_entropy").result(timeout=WAIT).metrics["loss:sum"] == before
    assert "/" in told(lambda: training.save_state("../up").result(timeout=WAIT))
    assert training.save_state("fine").result(timeout=WAIT).path.endswith("/weights/fine")


def test_prompts_and_settings_of_samples_are_checked(service: tinker.ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model="starter").result(timeout=WAIT)

    def sample(ids: list[int], **params: Any) -> Any:
        settings = tinker.SamplingParams(**{"max_tokens": 4, **params})
        return sampler.sample(tinker.ModelInput.from_ints(ids), 1, settings).result(timeout=WAIT)

    assert "vocabulary" in told(lambda: sample([10**6]))
    assert "empty" in told(lambda: sample([]))
    assert "top_p" in told(lambda: sample([5], top_p=0.0))
    assert "end of turn" in told(lambda: sample([5], stop=[]))
    assert "reads at most 512" in told(lambda: sample([5] * 600))


def test_a_wrong_key_opens_nothing(url: str) -> None:
    with pytest.raises(tinker.AuthenticationError):
        tinker.ServiceClient(base_url=url, api_key="tml-wrong").create_sampling_client(base_model="starter")
    for path in ("get_server_capabilities", "checkpoints", "training_runs", "sessions"):
        assert httpx.get(f"{url}/api/v1/{path}").status_code == 401
    assert httpx.get(f"{url}/api/v1/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("create_model", {"session_id": "gone", "model_seq_id": 0, "base_model": "starter"}, 410),
        ("create_model", {}, 410),
        ("optim_step", {"model_id": "../../etc:train:0", "seq_id": 1, "adam_params": {}}, 404),
        ("get_info", {"model_id": None}, 404),
        ("asample", {"sampling_session_id": "x"}, 404),
        ("retrieve_future", {"request_id": "unknown"}, 404),
        ("weights_info", {"tinker_path": "tinker://../weights/x"}, 404),
        ("weights_info", {"tinker_path": "/etc/passwd"}, 400),
        ("session_heartbeat", {"session_id": "gone"}, 410),
    ],
)
def test_nonsense_is_a_4xx_with_a_sentence(raw: httpx.Client, path: str, body: dict[str, Any], status: int) -> None:
    answer = raw.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"].endswith(".")


def test_bodies_that_cannot_be_read_are_a_4xx(raw: httpx.Client) -> None:
    for content, kind in ((b"\xff\xff\xff", "application/x-protobuf"), (b"{", "application/json"), (b"[]", "application/json")):
        answer = raw.post("forward_backward", content=content, headers={"content-type": kind})
        assert answer.status_code in (400, 404), answer.text
    assert raw.post("optim_step", content=b"x", headers={"content-encoding": "zstd"}).status_code == 415
    assert raw.post("optim_step", content=b"[" * 100_000).status_code == 400


def test_no_path_leaves_the_folder_of_a_run(raw: httpx.Client, url: str) -> None:
    for run_id in ("..%2f..", "a" * 32 + ":train:0", "....//"):
        assert raw.get(f"training_runs/{run_id}/checkpoints").status_code == 404
        assert raw.delete(f"training_runs/{run_id}/checkpoints/weights/x").status_code == 404
    assert httpx.get(f"{url}/files/x/weights/y/z?until=99999999999&signature=forged").status_code in (403, 404)
    assert KEY.startswith("tml-")
