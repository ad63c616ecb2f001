"""What is saved goes on bit for bit, loads into plain PEFT and transformers, and appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from recipes.backends.local import storage
from recipes.backends.local.config import LocalConfig
from recipes.backends.local.engine import Engine
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import CheckpointError, ConfigError
from recipes.types import AdamParams
from tests.recipes.backends.local.tiny_models import MODELS, datums, plain_logprobs, tiny_engine, tiny_model

ADAM = AdamParams(0.01, weight_decay=0.1, grad_clip_norm=1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(engine: Engine, steps: range) -> list[float]:
    losses = []
    for step in steps:
        losses.append(engine.forward_backward(datums(4, seed=step), "cross_entropy").metrics["loss:sum"])
        engine.optim_step(ADAM)
    return losses


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_stopping_and_resuming_is_as_if_never_stopped(lora_rank: int, tmp_path: Path) -> None:
    whole = tiny_engine(tiny_model(), tmp_path / "whole", lora_rank=lora_rank)
    expected = train(whole, range(7))
    first = tiny_engine(tiny_model(), tmp_path / "first", lora_rank=lora_rank)
    train(first, range(4))
    path = first.save_full_state("half")
    assert train(first, range(4, 7)) == expected[4:], "saving disturbs nothing"
    second = tiny_engine(tiny_model(), tmp_path / "second", lora_rank=lora_rank, perturb=False)
    train(second, range(20, 22))
    second.load_full_state(str(path))
    assert train(second, range(4, 7)) == expected[4:]
    for name, parameter in second.parameters.items():
        assert torch.equal(parameter, whole.parameters[name]), name


def test_the_random_state_goes_along(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    engine.save_full_state("here")
    expected = torch.rand(3)
    engine.load_full_state("checkpoints/here/state")
    assert torch.equal(torch.rand(3), expected)


def test_a_state_from_before_the_first_step_has_no_moments(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    path = engine.save_full_state("start")
    losses = train(engine, range(3))
    engine.load_full_state(str(path))
    assert train(engine, range(3)) == losses


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "llama"])
def test_a_saved_adapter_is_plain_peft(kind: str, tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(kind), tmp_path)
    train(engine, range(2))
    folder = engine.save_for_sampler("trained")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "tiny"
    assert str(tmp_path) not in json.dumps(saved)
    loaded = PeftModel.from_pretrained(tiny_model(kind), str(folder))
    data = datums()
    for datum, output in zip(data, engine.forward(data).loss_fn_outputs, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(output["logprobs"], plain_logprobs(loaded, datum).numpy(), atol=1e-5)
    train(engine, range(2, 3))


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_saved_weights_are_a_plain_model(kind: str, tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(kind), tmp_path, lora_rank=0)
    train(engine, range(2))
    folder = engine.save_for_sampler("trained")
    assert (folder / "model.safetensors").is_file()
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    data = datums()
    for datum, output in zip(data, engine.forward(data).loss_fn_outputs, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(output["logprobs"], plain_logprobs(loaded, datum).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_snapshot_says_what_the_trained_model_says_and_never_changes(kind: str, lora_rank: int, tmp_path: Path) -> None:
    from recipes.backends.local.loading import share

    engine = tiny_engine(tiny_model(kind), tmp_path, lora_rank=lora_rank)
    data = datums(3)
    outputs = engine.forward(data).loss_fn_outputs
    snapshot = share(*engine.snapshot())
    train(engine, range(3))
    assert not np.allclose(engine.forward(data).loss_fn_outputs[0]["logprobs"], outputs[0]["logprobs"], atol=1e-3)
    for datum, output in zip(data, outputs, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(output["logprobs"], plain_logprobs(snapshot, datum).numpy(), atol=1e-5)


def test_the_reference_is_the_model_before_training(tmp_path: Path) -> None:
    model = tiny_model()
    datum = datums(1)[0]
    with torch.no_grad():
        expected = plain_logprobs(model, datum)
    engine = tiny_engine(model, tmp_path)
    train(engine, range(2))
    with torch.no_grad():
        assert torch.equal(plain_logprobs(engine.reference(), datum), expected)


def test_a_save_that_is_interrupted_leaves_the_former_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    folder = engine.save_full_state("kept")
    before = (folder / storage.TENSORS_FILE).read_bytes()
    train(engine, range(1))

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        engine.save_full_state("kept")
    with pytest.raises(OSError, match="No space left"):
        engine.save_full_state("new")
    assert (folder / storage.TENSORS_FILE).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["state"]
    assert list((tmp_path / "checkpoints" / "new").iterdir()) == []


def test_what_a_killed_process_left_behind_is_cleared_away(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    folder = engine.save_full_state("a")
    (folder.parent / ".state.0123.partial").mkdir()
    (folder.parent / ".state.0123.partial" / "state.safetensors").write_text("half")
    engine.save_for_sampler("a")
    engine.save_full_state("a")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["sampler", "state"]


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "x" * 200])
def test_a_checkpoint_name_cannot_leave_the_runs_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint name"):
        tiny_engine(tiny_model(), tmp_path).save_full_state(name)


def test_a_state_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = tiny_engine(tiny_model(), tmp_path, lora_rank=4).save_full_state("a")
    with pytest.raises(CheckpointError, match="lora_rank 4; this run has 8"):
        tiny_engine(tiny_model(), tmp_path, lora_rank=8).load_full_state(str(folder))
    with pytest.raises(CheckpointError, match="does not fit"):
        tiny_engine(tiny_model("gpt2"), tmp_path).load_full_state(str(folder))
    with pytest.raises(CheckpointError, match="no saved training state"):
        tiny_engine(tiny_model(), tmp_path).load_full_state("checkpoints/none/state")


def test_a_damaged_state_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(), tmp_path)
    train(engine, range(1))
    folder = engine.save_full_state("a")
    before = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    tensors = load_file(folder / storage.TENSORS_FILE)
    lost = next(name for name in tensors if name.startswith("optimizer.exp_avg_sq"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, folder / storage.TENSORS_FILE)
    with pytest.raises(CheckpointError, match="optimizer state"):
        engine.load_full_state(str(folder))
    (folder / storage.TENSORS_FILE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        engine.load_full_state(str(folder))
    assert all(torch.equal(parameter, before[name]) for name, parameter in engine.parameters.items())
    assert engine._optimizer.num_steps == 1


def open_engine(folder: Path, output_dir: Path, start_from: Path, lora_rank: int) -> Engine:
    return Engine.load(
        LocalConfig(num_threads=1),
        ModelConfig(name=str(folder), init_from_checkpoint=str(start_from)),
        BaseAlgorithmConfig(lora_rank=lora_rank),
        output_dir,
    )


def test_a_run_begins_from_a_saved_adapter_with_a_fresh_optimizer(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    former = tiny_engine(tiny_model(), tmp_path)
    train(former, range(2))
    adapter = former.save_for_sampler("a")
    engine = open_engine(tmp_path / "model", tmp_path, adapter, 4)
    for name, parameter in engine.parameters.items():
        assert torch.equal(parameter, former.parameters[name])
    assert engine._optimizer.num_steps == 0
    with pytest.raises(CheckpointError, match="Set lora_rank to 4"):
        open_engine(tmp_path / "model", tmp_path, adapter, 8)
    with pytest.raises(ConfigError, match="lora_rank 0"):
        open_engine(tmp_path / "model", tmp_path, adapter, 0)
    with pytest.raises(CheckpointError, match="neither an adapter nor a model"):
        open_engine(tmp_path / "model", tmp_path, tmp_path / "nowhere", 4)


def test_a_run_begins_from_saved_weights(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    former = tiny_engine(tiny_model(), tmp_path, lora_rank=0)
    train(former, range(2))
    engine = open_engine(tmp_path / "model", tmp_path, former.save_for_sampler("a"), 0)
    again = engine.save_for_sampler("b")
    assert not any(str(tmp_path) in path.read_text() for path in again.glob("*.json")), "no machine path in what is saved"
    data = datums()
    assert engine.forward(data).metrics["loss:sum"] == pytest.approx(former.forward(data).metrics["loss:sum"], rel=1e-6)


def test_an_adapter_on_saved_weights_names_them_as_its_base(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    former = tiny_engine(tiny_model(), tmp_path, lora_rank=0)
    train(former, range(2))
    weights = former.save_for_sampler("a")
    engine = open_engine(tmp_path / "model", tmp_path / "second", weights, 4)
    train(engine, range(1))
    folder = engine.save_for_sampler("b")
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    with pytest.raises(CheckpointError, match="stands on the weights in .*Name that folder as the model"):
        open_engine(tmp_path / "model", tmp_path / "third", folder, 4)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    datum = datums(1)[0]
    with torch.no_grad():
        expected = plain_logprobs(loaded, datum).numpy()
    np.testing.assert_allclose(engine.forward([datum]).loss_fn_outputs[0]["logprobs"], expected, atol=1e-5)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    adapter = tiny_engine(tiny_model(), tmp_path).save_for_sampler("a")
    with pytest.raises(CheckpointError, match="made for another model"):
        open_engine(tmp_path / "model", tmp_path, adapter, 4)
