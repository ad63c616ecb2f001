"""A model's name leads to a folder or a hub id, or to a sentence that says what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.backends.local.config import Device, LocalConfig
from recipes.backends.local.loading import choose_device, choose_num_threads, load_model
from recipes.backends.local.models import STARTER_FOLDER, resolve
from recipes.errors import ConfigError
from tests.recipes.backends.local.tiny_models import tiny_model

CPU = torch.device("cpu")


def test_the_starter_and_folders_and_hub_ids_are_found(tmp_path: Path) -> None:
    assert resolve("starter") == STARTER_FOLDER
    tiny_model().save_pretrained(tmp_path)
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve("gpt2") == "gpt2"


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "what is this?", "../up", "~/gone"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no folder") as caught:
        resolve(name)
    assert caught.value.path == ("model", "name")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it has no config.json"),
        ({"adapter_config.json": "{}"}, "holds an adapter, not a model"),
        ({"config.json": "{torn"}, "cannot be read"),
        ({"config.json": "[]"}, "does not say its model_type"),
        ({"config.json": '{"model_type": "llama"}'}, "It holds no weights"),
        ({"config.json": '{"model_type": "llama"}', "pytorch_model.bin": "x"}, "pytorch_model.bin, a format that is not read"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_what_is_missing(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(str(tmp_path))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        resolve(str(tmp_path / "model.safetensors"))


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_an_unknown_architecture_is_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    change_config(tmp_path, model_type="perpetuum_mobile")
    with pytest.raises(ConfigError, match="architecture"):
        load_model(str(tmp_path), CPU, torch.float32)


def test_a_model_that_is_no_causal_language_model_is_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="no causal language model"):
        load_model(str(tmp_path), CPU, torch.float32)


def test_program_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    trace = tmp_path / "was_run"
    (tmp_path / "own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    change_config(
        tmp_path, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    )
    with pytest.raises(ConfigError, match="own program code"):
        load_model(str(tmp_path), CPU, torch.float32)
    assert not trace.exists()


def test_weights_that_are_incomplete_or_torn_are_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="model.layers.1.mlp.up_proj.weight missing"):
        load_model(str(tmp_path), CPU, torch.float32)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(tmp_path), CPU, torch.float32)


def test_a_hub_id_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="could not be fetched"):
        load_model("nobody/such-model", CPU, torch.float32)


def test_dropout_is_off_in_training_too() -> None:
    from recipes.backends.local.loading import _turn_off_dropout

    model = tiny_model("gpt2").train()
    assert any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    _turn_off_dropout(model)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_threads_are_as_asked_or_one_for_a_tiny_model() -> None:
    assert choose_num_threads(3, 10) == 3
    assert choose_num_threads(0, 1_000_000) == 1
    assert choose_num_threads(0, 10**9) >= 1


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_device(Device.CUDA)
    assert choose_device(Device.AUTO) == CPU


def test_settings_are_read_without_torch() -> None:
    program = (
        "import sys\n"
        "from recipes.backends.local import LocalBackend\n"
        "from recipes.backends.local.models import resolve\n"
        "LocalBackend.Config(); resolve('Qwen/Qwen3-0.6B')\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)


def test_every_setting_has_a_sentence_and_bounds() -> None:
    for name, field in LocalConfig.model_fields.items():
        assert field.description, name
        if field.annotation in (int, float):
            assert any(hasattr(bound, "ge") or hasattr(bound, "gt") for bound in field.metadata), name
