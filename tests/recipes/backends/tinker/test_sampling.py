"""Evals and chats of weights on Tinker: nothing that trains is made for them. And when checkpoints expire."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tinker

import recipes
from recipes import starter
from recipes.backends.tinker import TinkerBackend
from recipes.chat_pair import open_pair
from recipes.checkpoints import Manifest
from recipes.config import BackendChoice
from recipes.errors import BackendError, CheckpointError, ConfigError
from recipes.eval_config import EvalConfig
from recipes.types import SamplingParams
from recipes.weights import open_weights
from tests.recipes.backends.tinker.test_runs import SECRETS, config, train
from tests.recipes.tinker_stack import KEY, fake_tinker, tinker_server

ROWS = Path(starter.__file__).parent / "rows"
HELLO = [{"role": "user", "content": "What is 12 + 30?"}]
PARAMS = SamplingParams(max_tokens=64, seed=3)


def choice(url: str, **params: Any) -> BackendChoice:
    return BackendChoice(kind="tinker", params={"base_url": url, "timeout_seconds": 60, "connect_seconds": 5, **params})


def runs_on(url: str) -> int:
    listed = tinker.RestClient(base_url=url, api_key=KEY).list_training_runs().result(timeout=60)
    return len(listed.training_runs)


def test_evals_and_chats_make_no_training_run_on_the_server(tinker_url: str, tmp_path: Path) -> None:
    rows = config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=32, max_steps=8, learning_rate=1e-2)
    uri = train(rows, tmp_path).artifacts["checkpoint-final"]
    before = runs_on(tinker_url)
    for checkpoint in (None, uri):
        values = {
            "model": {"name": "starter", "checkpoint": checkpoint},
            "backend": choice(tinker_url).model_dump(),
            "data": {"path": str(ROWS / "tasks_held_out.jsonl")},
            "verifier": {"kind": "numeric"},
            "attempts": 2,
            "max_tasks": 2,
            "sampling": {"max_tokens": 16},
        }
        found = recipes.evaluate(EvalConfig.from_values(values), secrets=SECRETS)
        assert (found.status, found.num_done) == ("completed", 4), found.error

    async def chat() -> list[str]:
        async with open_pair("starter", uri, choice(tinker_url), secrets=SECRETS) as pair:
            return [(await each.stream(HELLO, PARAMS, lambda _: None)).turn.text for each in (pair.tuned, pair.base)]  # type: ignore[union-attr]

    tuned, base = asyncio.run(chat())
    assert tuned != base
    assert runs_on(tinker_url) == before


def test_what_is_sampled_is_what_the_training_client_would_sample(tinker_url: str, tmp_path: Path) -> None:
    rows = config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=32, max_steps=2, learning_rate=3e-3)
    uri = train(rows, tmp_path).artifacts["checkpoint-final"]

    async def scores(checkpoint: str | None) -> list[float | None]:
        async with open_weights(choice(tinker_url), "starter", checkpoint, secrets=SECRETS) as opened:
            return await (await opened.snapshot_sampling_client()).compute_logprobs_async([5, 6, 7, 8])

    async def of_a_trainer() -> list[float | None]:
        opened = await _opened_to_train(tinker_url, uri)
        try:
            return await (await opened.snapshot_sampling_client()).compute_logprobs_async([5, 6, 7, 8])
        finally:
            await opened.close()

    found, trained, base = asyncio.run(scores(uri)), asyncio.run(of_a_trainer()), asyncio.run(scores(None))
    assert found[1:] == pytest.approx(trained[1:], abs=1e-5) and found[1:] != pytest.approx(base[1:], abs=1e-3)


async def _opened_to_train(url: str, uri: str) -> TinkerBackend:
    from recipes.config import BaseAlgorithmConfig, ModelConfig

    return await TinkerBackend.open(
        TinkerBackend.Config.model_validate(choice(url).params),
        model=ModelConfig(name="starter", init_from_checkpoint=uri),
        algorithm=BaseAlgorithmConfig(lora_rank=4),
        output_dir=Path("unused"),
        secrets=SECRETS,
    )


async def _open(backend: BackendChoice, name: str, checkpoint: str | None) -> int:
    async with open_weights(backend, name, checkpoint, secrets=SECRETS) as opened:
        return len(opened.get_tokenizer())


def test_a_model_under_another_name_brings_its_tokenizer(tmp_path: Path) -> None:
    with tinker_server(tmp_path, models=("mine/under-a-name-of-its-own=starter",)) as url:
        num_tokens = asyncio.run(_open(choice(url), "mine/under-a-name-of-its-own", None))
        assert num_tokens == asyncio.run(_open(choice(url, tokenizer="starter"), "mine/under-a-name-of-its-own", None)) > 0


def test_what_cannot_be_sampled_from_is_a_sentence(tinker_url: str) -> None:
    with pytest.raises(BackendError, match="serves starter"):
        asyncio.run(_open(choice(tinker_url), "nobody/nothing", None))
    with pytest.raises(BackendError, match="no checkpoint"):
        asyncio.run(_open(choice(tinker_url), "starter", f"tinker://{'0' * 32}:train:0/sampler_weights/gone"))
    with pytest.raises(CheckpointError, match="begin with tinker://"):
        asyncio.run(_open(choice(tinker_url), "starter", "/somewhere/else"))


def test_a_failed_opening_finishes_its_session() -> None:
    def behave(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called == "create_sampling_session":
            return 200, {"type": "create_sampling_session", "sampling_session_id": "s:sample:0"}
        return (200, {"sampler_id": "s:sample:0", "base_model": "starter"}) if called.startswith("samplers/") else None

    with fake_tinker(behave) as (url, fake), pytest.raises(ConfigError):
        asyncio.run(_open(choice(url, tokenizer="/no/such/folder"), "starter", None))
    assert any(called.startswith("sessions/") and called.endswith("/finish") for called in fake.requests)
    assert fake.count("create_model") == 0


def test_the_time_to_live_that_is_set_comes_back_as_the_time_of_expiry(tinker_url: str, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    values = config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=8, max_steps=1)
    values.backend.params["checkpoint_ttl_hours"] = 36
    train(values, tmp_path / "kept for a time")
    (saved,) = Manifest(tmp_path / "kept for a time").read()
    assert saved.expires_at is not None
    assert timedelta(hours=36) <= saved.expires_at - began < timedelta(hours=36, minutes=2)
    train(config(tinker_url, "sft", ROWS / "train.jsonl", batch_size=8, max_steps=1), tmp_path / "kept")
    assert Manifest(tmp_path / "kept").read()[0].expires_at is None
