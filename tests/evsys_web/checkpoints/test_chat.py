"""Asking a checkpoint and its base, through the product and the real process that answers."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

import recipes
from evsys_web.checkpoints import sampling
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from recipes.chat_server import ADDRESS_FILE
from recipes.config import RunConfig
from tests.evsys_web.runs.conftest import MakeRun, mock_config
from tests.evsys_web.runs.test_live import events_in
from tests.evsys_web.runs.test_live import server as server

Event = tuple[str, Any]
ROWS = [{"messages": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]}] * 4
pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")


@pytest.fixture(autouse=True)
def own_process(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process of the test's own, ended with it."""
    settings.HOME = tmp_path
    monkeypatch.setattr(sampling, "_process", None)
    yield
    if sampling._process is not None:
        sampling._process.kill()
        sampling._process.wait()


@pytest.fixture
def trained(make_run: MakeRun) -> Checkpoint:
    """Of a run on the mock backend: real files, and a model that answers at once."""
    run = make_run(status=Status.COMPLETED, config=mock_config(max_steps=3))
    config = RunConfig.from_values(mock_config(max_steps=3))
    result = recipes.train(config, run_id=str(run.pk), output_dir=run.output_dir, rows=ROWS)
    return Checkpoint.objects.create(run=run, name="final", step=3, sampler_uri=result.artifacts["checkpoint-final"])


def events(response: Any) -> list[Event]:
    assert response.status_code == 200, response.content
    text = b"".join(response).decode()
    return [(name, data) for name, _, data in events_in(iter(text.splitlines()))]


def ask(client: Client, checkpoint: Checkpoint, **values: Any) -> Any:
    body = {"prompt": "What is 1 + 1?", "max_tokens": 8, **values}
    url = reverse("checkpoints:chat-replies", args=[checkpoint.pk])
    return client.post(url, json.dumps(body), content_type="application/json")


def ends(found: list[Event]) -> dict[str, Any]:
    return {data["side"]: data for name, data in found if name == "end"}


def test_both_sides_answer_and_the_same_seed_answers_the_same(alice_client: Client, trained: Checkpoint) -> None:
    first = events(ask(alice_client, trained, seed=7))
    assert [name for name, _ in first][:2] == ["begin", "loading"] and first[-1] == ("done", {})
    assert first[0][1] == {"seeds": {"tuned": 7, "base": 7}}
    again = events(ask(alice_client, trained, seed=7))
    assert "loading" not in dict(again), "the models were read twice"
    for side in ("tuned", "base"):
        told = "".join(data["text"] for name, data in first if name == "text" and data["side"] == side)
        assert told and ends(first)[side]["content"] == ends(again)[side]["content"]
    assert events(ask(alice_client, trained, seed=7, same_seed=False))[0][1] == {"seeds": {"tuned": 7, "base": 8}}


def test_each_side_reads_its_own_conversation(alice_client: Client, trained: Checkpoint) -> None:
    plain = ends(events(ask(alice_client, trained)))
    turns = [{"user": "Hello", "tuned": "Good day to you", "base": ""}]
    longer = ends(events(ask(alice_client, trained, turns=turns, system_prompt="Be brief.")))
    read = {side: longer[side]["num_prompt_tokens"] - plain[side]["num_prompt_tokens"] for side in plain}
    assert read["tuned"] == read["base"] + len("Good day to you") and read["base"] > len("Be brief.Hello")


def test_the_models_can_be_read_before_anybody_asks(alice_client: Client, trained: Checkpoint) -> None:
    url = reverse("checkpoints:chat-opening", args=[trained.pk])
    assert [name for name, _ in events(alice_client.post(url))] == ["loading", "done"]
    assert [name for name, _ in events(alice_client.post(url))] == ["done"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": ""}, "prompt: "),
        ({"temperature": -1}, "temperature: "),
        ({"max_tokens": 9000}, "max_tokens: "),
        ({"seed": "seven"}, "seed: "),
        ({"turns": [{"user": "a"}] * 101}, "turns: "),
        ({"model": "other"}, "model: "),
    ],
)
def test_what_cannot_be_is_a_sentence(alice_client: Client, trained: Checkpoint, values: dict[str, Any], words: str) -> None:
    refused = ask(alice_client, trained, **values)
    assert refused.status_code == 422 and words in refused.json()["message"]


def test_what_is_no_json_is_a_sentence(alice_client: Client, trained: Checkpoint) -> None:
    url = reverse("checkpoints:chat-replies", args=[trained.pk])
    for body in ("{", "[" * 100_000, b"\xff"):
        assert alice_client.post(url, body, content_type="application/json").json()["message"] == "This is not JSON."


def test_weights_that_are_gone_or_elsewhere_are_a_sentence(alice_client: Client, trained: Checkpoint) -> None:
    Checkpoint.objects.filter(pk=trained.pk).update(sampler_uri=str(trained.run.output_dir / "gone"))
    assert "cannot be read" in dict(events(ask(alice_client, trained)))["error"]["message"]
    Checkpoint.objects.filter(pk=trained.pk).update(sampler_uri="")
    assert "no weights to sample from" in ask(alice_client, trained).json()["message"]
    config = {**trained.run.config, "backend": {"kind": "somewhere else", "params": {}}}
    TrainingRun.objects.filter(pk=trained.run_id).update(config=config)
    Checkpoint.objects.filter(pk=trained.pk).update(sampler_uri="elsewhere://a/b")
    assert "somewhere else" in ask(alice_client, trained).json()["message"]


def test_a_process_that_was_killed_is_started_again(alice_client: Client, trained: Checkpoint) -> None:
    events(ask(alice_client, trained))
    first = sampling._process
    assert first is not None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (sampling._folder() / ADDRESS_FILE).exists(), "its address outlives it"
    assert ends(events(ask(alice_client, trained)))
    assert sampling._process is not None and sampling._process.pid != first.pid


def test_several_askers_share_one_process(alice_client: Client, trained: Checkpoint) -> None:
    events(ask(alice_client, trained))
    first = sampling._process
    assert first is not None
    try:
        sampling._process = None  # another web process of this machine
        assert ends(events(ask(alice_client, trained)))
        assert sampling._process is None
    finally:
        sampling._process = first


def test_too_much_memory_ends_it_with_a_sentence(alice_client: Client, trained: Checkpoint, settings: Settings) -> None:
    settings.CHAT_MEMORY_MB = 1
    message = dict(events(ask(alice_client, trained)))["error"]["message"]
    assert "need more than the 1 MB" in message and "EVSYS_CHAT_MEMORY_MB" in message


def test_it_ends_when_nobody_asks(alice_client: Client, trained: Checkpoint, settings: Settings) -> None:
    settings.CHAT_IDLE_SECONDS = 0
    events(ask(alice_client, trained))
    assert sampling._process is not None and sampling._process.wait(90) == 0
    assert not (sampling._folder() / ADDRESS_FILE).exists()


def test_it_knows_none_of_the_servers_secrets(alice_client: Client, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    events(ask(alice_client, trained))
    assert sampling._process is not None
    with suppress(FileNotFoundError):  # where there is no /proc
        assert b"do not tell" not in Path(f"/proc/{sampling._process.pid}/environ").read_bytes()
    assert Path((sampling._folder() / ADDRESS_FILE).read_text()).parent.stat().st_mode & 0o077 == 0


def test_whoever_hangs_up_ends_the_sampling(server: str, alice_client: Client, trained: Checkpoint) -> None:
    """A long answer on the starter: it would take far longer than it is listened to."""
    config = {**trained.run.config, "backend": {"kind": "local", "params": {}}}
    TrainingRun.objects.filter(pk=trained.run_id).update(config=config)
    from recipes.backends.local.models import STARTER_FOLDER

    Checkpoint.objects.filter(pk=trained.pk).update(sampler_uri=str(STARTER_FOLDER))
    alice_client.get("/")  # sets the token that a form sends back
    headers = {"Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in alice_client.cookies.items())}
    body = {"prompt": "Talk on and on.", "temperature": 9.0, "max_tokens": 8192}
    page = httpx.get(server + reverse("checkpoints:chat", args=[trained.pk]), headers=headers, timeout=60)
    token = page.text.split('"X-CSRFToken": "')[1].split('"')[0]
    headers["Cookie"] += f"; evsys_csrf={page.cookies['evsys_csrf']}"
    url = server + reverse("checkpoints:chat-replies", args=[trained.pk])
    with httpx.stream("POST", url, json=body, headers=headers | {"X-CSRFToken": token}, timeout=120) as answer:
        assert answer.status_code == 200
        for name, _, _ in events_in(answer.iter_lines()):
            if name == "text":
                break
    hung_up = time.monotonic()
    found = events(ask(alice_client, trained, max_tokens=1))
    assert ends(found).keys() == {"tuned", "base"} and time.monotonic() - hung_up < 20


def test_over_rest_it_takes_a_token_that_may_write(
    client: Client, alice_headers: dict[str, str], read_only_headers: dict[str, str], trained: Checkpoint
) -> None:
    url = f"/api/v1/checkpoints/{trained.pk}/chat"
    body = {"prompt": "What is 1 + 1?", "max_tokens": 4}
    sent = {"data": json.dumps(body), "content_type": "application/json"}
    assert ends(events(client.post(url, headers=alice_headers, **sent))).keys() == {"tuned", "base"}
    assert client.post(url, headers=read_only_headers, **sent).status_code == 403
    refused = client.post(url, '{"prompt": ""}', content_type="application/json", headers=alice_headers)
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "prompt"


def test_a_stranger_can_ask_nothing(mallory_client: Client, mallory_headers: dict[str, str], trained: Checkpoint) -> None:
    assert ask(mallory_client, trained).status_code == 404
    for name in ("chat", "chat-opening"):
        url = reverse(f"checkpoints:{name}", args=[trained.pk])
        assert (mallory_client.get if name == "chat" else mallory_client.post)(url).status_code == 404
    assert sampling._process is None
