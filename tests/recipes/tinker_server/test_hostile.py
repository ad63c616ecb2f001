"""Whatever is sent, the answer is a sentence with a 4xx, or a promise that ends in one: never a 5xx, never silence."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import httpx
import pytest

from recipes.tinker_server import app
from tests.recipes.tinker_server.test_protocol import begun, fetched, gradient

HUGE = 10**400
DEEP: Any = []
for _ in range(50):
    DEEP = [DEEP]
ODD: list[Any] = [None, True, -1, 0, HUGE, float("inf"), "", "x" * 10_000, "\ud800", [], {}, [None], {"a": 1}, DEEP]


@pytest.fixture(scope="module")
def model_id(url: str) -> str:
    from tests.recipes.tinker_stack import KEY

    with httpx.Client(base_url=f"{url}/api/v1", headers={"X-API-Key": KEY}, timeout=40) as client:
        return begun(client)


@pytest.fixture
def sampler_id(raw: httpx.Client, model_id: str) -> str:
    session = model_id.partition(":")[0]
    body = {"session_id": session, "sampling_session_seq_id": 7, "base_model": "starter"}
    return str(raw.post("create_sampling_session", json=body).json()["sampling_session_id"])


def with_each(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The body with each of its values, at any depth, replaced by each oddity."""
    found = []
    for path in _paths(body):
        for odd in ODD:
            found.append(_replaced(body, path, odd))
    return found


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [at] * bool(at) + [path for key, child in inner for path in _paths(child, (*at, key))]


def _replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], odd)
    return copy


def _answered(raw: httpx.Client, path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    answer = raw.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["detail"].endswith("."), answer.text
    elif "request_id" in answer.json():
        found = fetched(raw, answer.json())
        assert "The server failed" not in found.get("error", ""), (body, found)
    assert not caplog.records, (body, caplog.text)


def test_gradients_of_nonsense(raw: httpx.Client, model_id: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for body in with_each({key: value for key, value in gradient(model_id, 1).items() if key not in ("model_id", "seq_id")}):
        body |= {"model_id": model_id}
        _answered(raw, "forward", body, caplog)
    config = gradient(model_id, 1)
    for odd in ODD:
        config["forward_backward_input"]["loss_fn_config"] = {"beta": odd}
        config["forward_backward_input"]["loss_fn"] = "dro"
        _answered(raw, "forward", config | {"seq_id": None}, caplog)


@pytest.mark.parametrize("path", ["create_model", "load_weights", "optim_step", "save_weights", "create_sampling_session"])
def test_everything_else_of_nonsense(raw: httpx.Client, model_id: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    session = model_id.partition(":")[0]
    bodies: dict[str, dict[str, Any]] = {
        "create_model": {
            "session_id": session,
            "model_seq_id": 90,
            "base_model": "starter",
            "lora_config": {"rank": 2, "seed": 1},
        },
        "load_weights": {"session_id": session, "model_seq_id": 91, "path": f"tinker://{model_id}/weights/x", "optimizer": True},
        "optim_step": {"adam_params": {"learning_rate": 0.0, "beta1": 0.9, "eps": 1e-8}},
        "save_weights": {"path": "name", "ttl_seconds": 7200, "user_metadata": {"a": "b"}},
        "create_sampling_session": {"session_id": session, "sampling_session_seq_id": 9, "base_model": "starter"},
    }
    for body in with_each(bodies[path]):
        if path in ("optim_step", "save_weights"):
            body["model_id"] = model_id
        _answered(raw, path, body, caplog)


def test_samples_of_nonsense(raw: httpx.Client, sampler_id: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    body = {
        "num_samples": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]},
        "sampling_params": {"max_tokens": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 5, "seed": 1, "stop": [1]},
        "prompt_logprobs": True,
        "topk_prompt_logprobs": 1,
        "prompt_logprobs_last_n": 1,
    }
    for odd in with_each(body):
        if odd.get("num_samples") == 1 and (odd.get("sampling_params") or {}) and isinstance(odd["sampling_params"], dict):
            odd["sampling_params"] = {"max_tokens": 2, **odd["sampling_params"]}
        _answered(raw, "asample", odd | {"sampling_session_id": sampler_id}, caplog)


def test_addresses_of_nonsense(raw: httpx.Client, url: str, model_id: str) -> None:
    for query in ({"limit": "9" * 5000}, {"offset": "²"}, {"limit": "-1"}, {"limit": "9" * 12}):
        assert raw.get("training_runs", params=query).status_code in (200, 400)
    for until, signature in (("9" * 5000, "x"), ("1", "é"), ("²", "x"), ("", "")):
        query = {"until": until, "signature": signature}
        assert httpx.get(f"{url}/files/{model_id}/sampler_weights/x/y", params=query).status_code == 403
    assert raw.put(f"training_runs/{model_id}/checkpoints/weights/x/ttl", json={"ttl_seconds": "long"}).status_code in (400, 404)


def test_results_that_are_no_numbers_are_json_all_the_same(raw: httpx.Client) -> None:
    model_id = begun(raw)
    found = raw.post("forward_backward", json=gradient(model_id, 1, weight=3e38)).json()
    step = raw.post("optim_step", json={"model_id": model_id, "seq_id": 2, "adam_params": {"learning_rate": 0.1}}).json()
    assert fetched(raw, found)["metrics"] == {"loss:sum": "inf"}
    assert fetched(raw, step)["metrics"] == {"grad_norm": "nan", "skipped_nonfinite": 1.0}


def test_bodies_that_end_halfway_and_clients_that_vanish_are_nobody_elses_trouble(
    raw: httpx.Client, url: str, model_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(app, "SILENT_BODY_SECONDS", 0.1)
    key = raw.headers["x-api-key"]
    half = f"POST /api/v1/forward_backward HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: 99\r\n\r\n{{".encode()
    host, _, port = url.removeprefix("http://").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as vanished:
            vanished.sendall(half)
    with socket.create_connection((host, int(port)), timeout=60) as silent:
        silent.sendall(half)
        assert silent.recv(100).startswith(b"HTTP/1.1 408 ")
    monkeypatch.undo()
    assert "metrics" in fetched(raw, raw.post("forward_backward", json=gradient(model_id, 1) | {"seq_id": None}).json())
    assert not caplog.records


def test_endpoints_that_there_are_not_are_refused_in_a_sentence(raw: httpx.Client) -> None:
    for answer, status in ((raw.post("create_custom_loss", json={}), 404), (raw.get("forward_backward"), 405)):
        assert answer.status_code == status and "does not offer" in answer.json()["detail"]
