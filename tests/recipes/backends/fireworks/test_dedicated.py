"""Training step by step on a dedicated trainer: ordered for the run, written down first, deleted in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fireworks.training import sdk

import recipes
from recipes.algorithms.sft import SFT, SFTConfig
from recipes.backends.fireworks import FireworksBackend
from recipes.backends.fireworks.config import FireworksConfig, Trainer
from recipes.config import ModelConfig, RunConfig, check_pair
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.resources import RESOURCES_FILE, Resource, ResourceLog
from recipes.types import RunResult, Task
from tests.fireworks_server import ACCOUNT, KEY, MODEL, Request
from tests.fireworks_trainers import SHAPE, WHOLE_SHAPE, shape
from tests.recipes.backends.fireworks.pool import config, train
from tests.recipes.backends.fireworks.trainer_proxy import TrainerProxy
from tests.recipes.runs_under_test import Witness, chats

CREATE = r"/rlorTrainerJobs$"


def dedicated(trainers: TrainerProxy, kind: str = "sft", *, backend: dict[str, Any] | None = None, **params: Any) -> RunConfig:
    chosen = {"trainer": "dedicated", "accept_billing": True, "training_shape": SHAPE, "ready_seconds": 120, **(backend or {})}
    steps = {"batch_size": 4, "max_steps": 4, "learning_rate": 3e-3, "save_every": 2} if kind == "sft" else {}
    return config(trainers.url, kind, backend=chosen, **{**steps, **params})


def trained(run: RunConfig, folder: Path, *seen: Witness) -> RunResult:
    return train(run, folder, *seen, rows=chats(16))


def told(seen: Witness, words: str) -> list[str]:
    return [level for level, message in seen.events if words in message]


def test_a_run_has_its_trainer_made_told_of_trained_on_and_deleted(trainers: TrainerProxy, tmp_path: Path) -> None:
    seen, folder = Witness(), tmp_path / "run 7"
    run = dedicated(trainers, batch_size=16, max_steps=6, save_every=3)
    assert trained(run, folder, seen).error is None
    assert seen.steps[6]["train/loss"] < seen.steps[1]["train/loss"]
    (name,) = trainers.control.trainers.trainers
    assert name.startswith("evsys-run-7-")
    ordered = trainers.control.last("POST", CREATE)
    assert ordered.query == {"rlorTrainerJobId": name, "trainingShape": SHAPE}
    assert ordered.json["trainingConfig"] == {"baseModel": MODEL, "loraRank": 4, "learningRate": 3e-3}
    assert ordered.json["inactivityTimeout"] == "900s"
    assert told(seen, "8 × NVIDIA_H200_141GB, billed per GPU-second while it is up: about $64.00 an hour (as of") == ["info"]
    assert told(seen, "says of the trainer PENDING") == ["info"]
    deleted = f"The trainer {name} was deleted. It had used 3,600 seconds of NVIDIA_H200_141GB, about $8.00 (as of"
    assert told(seen, deleted) == ["info"]
    assert not trainers.control.trainers.up and not ResourceLog(folder).left()
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY in path.read_text()]


def test_it_is_written_down_before_it_is_made(trainers: TrainerProxy, tmp_path: Path) -> None:
    found: list[Resource] = []

    def look_into_the_folder(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/rlorTrainerJobs"):
            found.extend(ResourceLog(tmp_path).left())

    trainers.control.faults.append(look_into_the_folder)
    assert trained(dedicated(trainers, max_steps=1), tmp_path, Witness()).status == "completed"
    assert found == [Resource("trainer", next(iter(trainers.control.trainers.trainers)), ACCOUNT)]


@pytest.mark.parametrize("chosen", [SHAPE, None], ids=["a named shape", "the service's choice"])
def test_what_is_ordered_is_what_the_vendors_own_manager_orders(
    trainers: TrainerProxy, tmp_path: Path, chosen: str | None
) -> None:
    assert trained(dedicated(trainers, max_steps=1, backend={"training_shape": chosen}), tmp_path, Witness()).error is None
    ours = trainers.control.last("POST", CREATE)
    manager: Any = sdk.TrainerJobManager(api_key=KEY, base_url=trainers.url)
    profile = manager.resolve_training_profile(chosen) if chosen else None
    manager.create(
        sdk.TrainerJobConfig(
            base_model=MODEL,
            lora_rank=4,
            learning_rate=3e-3,
            max_context_length=None if chosen else ours.json["trainingConfig"]["maxContextLength"],
            training_shape_ref=profile.training_shape if profile else None,
            auto_select_training_shape=chosen is None,
            inactivity_timeout="900s",
            display_name=ours.json["displayName"],
            requested_job_id="another-id",
        )
    )
    manager.close()
    theirs = trainers.control.last("POST", CREATE)
    assert ours.json == theirs.json
    assert {**ours.query, "rlorTrainerJobId": "another-id"} == theirs.query


def test_a_choice_left_to_the_service_names_the_context_that_is_needed(trainers: TrainerProxy, tmp_path: Path) -> None:
    seen = Witness()
    run = dedicated(trainers, max_steps=1, max_seq_len=300, backend={"training_shape": None})
    assert trained(run, tmp_path, seen).error is None
    assert trainers.control.last("POST", CREATE).json["trainingConfig"]["maxContextLength"] == 300
    assert told(seen, "chooses what the trainer of") == ["info"] and not trainers.control.count("GET", "/trainingShapes/")


def test_preferences_are_learnt_too(trainers: TrainerProxy, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + {i}?", "chosen": str(2 * i), "rejected": str(2 * i + 1)} for i in range(8)]
    seen = Witness()
    result = train(dedicated(trainers, "dpo", batch_size=8, max_steps=4), tmp_path, seen, rows=rows)
    assert result.status == "completed", result.error
    assert seen.steps[4]["rewards/margins"] > seen.steps[1]["rewards/margins"]
    assert not trainers.control.trainers.up


def test_what_it_trained_becomes_a_model_that_an_eval_has_served(trainers: TrainerProxy, tmp_path: Path) -> None:
    seen = Witness()
    assert trained(dedicated(trainers), tmp_path / "run", seen).error is None
    between, final = seen.checkpoints
    (trainer,) = trainers.control.trainers.trainers
    assert str(final.sampler_path).startswith(f"fireworks://accounts/{ACCOUNT}/models/evsys-run-")
    assert str(final.state_path).startswith(f"fireworks://accounts/{ACCOUNT}/rlorTrainerJobs/{trainer}/checkpoints/final-")
    assert "/models/" not in str(between.sampler_path)
    asked = trainers.control.last("POST", ":promote$")
    assert asked.path.startswith(f"/v1/accounts/{ACCOUNT}/checkpoints/final-")
    assert asked.json["trainer_job_id"] == f"accounts/{ACCOUNT}/rlorTrainerJobs/{trainer}"
    trainers.control.serving.walk, trainers.control.serving.num_deaf = ["READY"], 0
    values = {
        "model": {"name": MODEL, "checkpoint": final.sampler_path},
        "backend": {"kind": "fireworks", "params": {"base_url": trainers.url}},
        "serving": {"accept_billing": True},
        "data": {"path": "unused.jsonl"},
        "attempts": 1,
    }
    task = Task("1", [{"role": "user", "content": "1 + 1?"}], answer="I do not know.")
    result = recipes.evaluate(
        EvalConfig.from_values(values), tasks=[task], run_dir=tmp_path / "eval", secrets={"backend_api_key": KEY}
    )
    assert (result.status, result.num_done) == ("completed", 1), result.error
    assert not trainers.control.serving.up


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"accept_billing": False}, "accept_billing: true"),
        ({"training_shape": f"{SHAPE}/versions/7"}, "leave /versions/"),
        ({"training_shape": "qwen3-8b-lora"}, "give its resource name"),
        ({"training_shape": None, "max_dollars_per_hour": 10}, "name a training_shape"),
    ],
)
def test_what_is_wrong_is_said_before_a_run_waits(trainers: TrainerProxy, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dedicated(trainers, backend=wrong)


@pytest.mark.parametrize("kind", ["rl", "sdft"])
def test_what_must_sample_is_sent_to_the_pool(trainers: TrainerProxy, kind: str) -> None:
    with pytest.raises(ConfigError, match="trains in the serverless pool"):
        dedicated(trainers, kind, **({"topk": 5} if kind == "sdft" else {}))


@pytest.mark.parametrize("word", ["gives_rollouts", "needs_sampler"])
def test_an_installed_algorithm_that_samples_is_too_in_either_word(word: str) -> None:
    installed = type("Installed", (SFT,), {word: True})
    settings, model = SFTConfig(lora_rank=4), ModelConfig(name=MODEL)
    chosen = FireworksConfig(trainer=Trainer.DEDICATED, accept_billing=True, tokenizer="starter")
    check_pair(SFT, settings, FireworksBackend, chosen, model)
    with pytest.raises(ConfigError, match="trains in the serverless pool"):
        check_pair(installed, settings, FireworksBackend, chosen, model)
    check_pair(installed, settings, FireworksBackend, FireworksConfig(tokenizer="starter"), model)


@pytest.mark.parametrize(
    ("backend", "params", "words"),
    [
        ({"training_shape": WHOLE_SHAPE}, {}, "trains no LoRA adapters"),
        ({"training_shape": f"{SHAPE}-x"}, {}, "no validated training shape"),
        ({"max_dollars_per_hour": 63}, {}, r"about \$64.00, and max_dollars_per_hour allows \$63.00"),
        ({}, {"max_seq_len": 300_000}, "reads 262,144 tokens at most"),
        ({"account_id": "other"}, {}, "may not do that"),
    ],
)
def test_a_shape_that_does_not_fit_costs_nothing(
    trainers: TrainerProxy, tmp_path: Path, backend: dict[str, Any], params: dict[str, Any], words: str
) -> None:
    result = trained(dedicated(trainers, backend=backend, **params), tmp_path, Witness())
    assert result.status == "failed"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(result.error)
    assert not trainers.control.trainers.trainers and not ResourceLog(tmp_path).left()


def test_an_accelerator_without_a_known_price_is_refused_where_a_limit_was_set(trainers: TrainerProxy, tmp_path: Path) -> None:
    trainers.control.trainers.shapes[SHAPE] = shape(accelerator="NVIDIA_NEW")
    result = trained(dedicated(trainers, backend={"max_dollars_per_hour": 1000}), tmp_path, Witness())
    assert "an hour is not known" in (result.error or "") and not (tmp_path / RESOURCES_FILE).exists()
