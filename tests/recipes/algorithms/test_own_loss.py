"""A recipe of somebody's own, as the EvSys documentation writes it: only the package's name differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import recipes
from recipes.algorithms.sft import SFT, SFTConfig
from recipes.registry import algorithms, register_algorithm
from recipes.training.loop import TrainingBatch
from tests.recipes.runs_under_test import Witness, chats, config
from tests.recipes.tinker_stack import KEY, tinker_server


class FocalSFTConfig(SFTConfig):  # inherits extra="forbid" + all SFT knobs
    gamma: float = 2.0  # focal-loss focusing parameter


class FocalSFT(SFT):
    name: ClassVar[str] = "focal_sft"
    Config: ClassVar[type] = FocalSFTConfig

    async def build_batch(self, step_idx: int) -> TrainingBatch:
        batch = await super().build_batch(step_idx)  # reuse SFT's slicing

        def focal_loss(model_output, meta):  # type: ignore[no-untyped-def]  # a LossCallable
            import torch  # noqa: F401

            logp = model_output.logprobs  # per-token target logprob
            p = logp.exp()
            return -((1 - p) ** self.cfg.gamma * logp).mean()

        batch.loss_fn = focal_loss  # client-side custom loss
        return batch


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The decorator there, for these tests alone: registered when this file is read, it would be in the document of the API of
    every process that runs tests."""
    register_algorithm("focal_sft")(FocalSFT)
    yield
    algorithms._items.pop("focal_sft")


def focal(folder: Path, backend: str, **backend_params: Any) -> Witness:
    witness = Witness()
    params: dict[str, Any] = {"gamma": 2.0, "lora_rank": 8, "max_steps": 8, "learning_rate": 0.02}
    chosen = config("focal_sft", backend=backend, **params)
    chosen.backend.params = backend_params
    secrets = {"backend_api_key": KEY} if backend == "tinker" else None
    result = recipes.train(chosen, run_id="7", output_dir=folder, rows=chats(), callbacks=[witness], secrets=secrets)
    assert (result.status, result.error) == ("completed", None)
    return witness


def check(witness: Witness) -> None:
    assert witness.steps[8]["train/mean_nll"] < witness.steps[1]["train/mean_nll"]
    assert witness.steps[1]["train/loss"] != pytest.approx(witness.steps[1]["train/mean_nll"], rel=1e-3)


@pytest.mark.parametrize("backend", ["mock", "local"])
def test_the_focal_loss_of_the_documentation_trains(tmp_path: Path, backend: str) -> None:
    check(focal(tmp_path, backend))


def test_it_trains_through_the_tinker_sdk_to_the_same_loss(tmp_path: Path) -> None:
    """There the SDK differentiates it on this side, and sends the slopes."""
    with tinker_server(tmp_path / "server") as url:
        there = focal(tmp_path / "tinker", "tinker", base_url=url)
    check(there)
    here = focal(tmp_path / "local", "local", num_threads=1, device="cpu")
    for step in (1, 2):
        assert there.steps[step]["train/loss"] == pytest.approx(here.steps[step]["train/loss"], rel=1e-2)


def test_a_setting_of_ones_own_is_checked_like_any_other() -> None:
    assert algorithms.get("focal_sft")(gamma=3.0).cfg.gamma == 3.0
    with pytest.raises(ValueError, match="gama"):
        FocalSFT(gama=3.0)
