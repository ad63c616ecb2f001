"""What every Backend promises, asked of each one that runs on a bare machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.errors import BackendError, DataError, RecipeError
from recipes.protocols import Backend
from recipes.types import AdamParams, Datum
from tests.recipes.backends.conftest import ADAM, datums, learn, nll


def test_log_probabilities_come_back_per_datum_and_add_up_to_the_loss(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        result = await backend.forward_backward_async(data, loss_fn="cross_entropy")
        total = 0.0
        for datum, output in zip(data, result.loss_fn_outputs, strict=True):
            assert output["logprobs"].shape == datum.model_input.shape
            assert (output["logprobs"] <= 0).all()
            total -= float((datum.loss_fn_inputs["weights"] * output["logprobs"]).sum())
        assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-4)

    play(scenario)


def test_a_step_lowers_the_loss_and_a_forward_pass_alone_changes_nothing(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        before = await nll(backend, data)
        assert await nll(backend, data) == before
        result = await backend.optim_step_async(ADAM)
        assert result.metrics["optim/grad_norm"] == 0, "validation leaves no gradient behind"
        assert await nll(backend, data) == before
        assert await learn(backend, data, steps=5) == pytest.approx(await nll(backend, data), rel=0.5)
        assert await nll(backend, data) < before

    play(scenario)


def test_gradients_accumulate_until_the_optimizer_steps(play: Any) -> None:
    async def together(backend: Backend) -> float:
        await backend.forward_backward_async(datums(backend), loss_fn="cross_entropy")
        return (await backend.optim_step_async(ADAM)).metrics["optim/grad_norm"]

    async def apart(backend: Backend) -> float:
        for datum in datums(backend):
            await backend.forward_backward_async([datum], loss_fn="cross_entropy")
        return (await backend.optim_step_async(ADAM)).metrics["optim/grad_norm"]

    assert play(together, "a") == pytest.approx(play(apart, "b"), rel=1e-4)


def test_a_custom_loss_that_says_cross_entropy_is_cross_entropy(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        named = await backend.forward_backward_async(data, loss_fn="cross_entropy")
        norm = (await backend.optim_step_async(AdamParams(learning_rate=0.0))).metrics["optim/grad_norm"]
        custom = await backend.forward_backward_custom_async(
            data, lambda model_output, meta: -(meta["weights"] * model_output.logprobs).sum()
        )
        again = (await backend.optim_step_async(AdamParams(learning_rate=0.0))).metrics["optim/grad_norm"]
        assert custom.metrics["loss:sum"] == pytest.approx(named.metrics["loss:sum"], rel=1e-4)
        assert again == pytest.approx(norm, rel=1e-4)

    play(scenario)


def test_advantages_push_up_what_is_positive_and_down_what_is_negative(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        good, bad = datums(backend, 2)
        sampled = (await backend.forward_async([good, bad])).loss_fn_outputs
        data = [
            Datum(
                datum.model_input,
                {
                    "target_tokens": datum.loss_fn_inputs["target_tokens"],
                    "logprobs": output["logprobs"],
                    "advantages": sign * datum.loss_fn_inputs["weights"],
                },
            )
            for datum, output, sign in zip([good, bad], sampled, [1, -1], strict=True)
        ]
        before = await nll(backend, [good]), await nll(backend, [bad])
        for loss_fn in ("importance_sampling", "ppo"):
            result = await backend.forward_backward_async(data, loss_fn=loss_fn)
            assert np.isfinite(result.metrics["loss:sum"])
        await backend.optim_step_async(ADAM)
        assert await nll(backend, [good]) - await nll(backend, [bad]) < before[0] - before[1]

    play(scenario)


def test_a_failed_pass_takes_the_update_behind_it_down_and_leaves_the_weights(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        before = await nll(backend, data)
        await backend.forward_backward_async(data, loss_fn="cross_entropy")
        wrong = backend.forward_backward_async(data, loss_fn="no_such_loss")
        update = backend.optim_step_async(ADAM)
        with pytest.raises(RecipeError, match="no_such_loss"):
            await wrong
        with pytest.raises(BackendError):
            await update
        assert await nll(backend, data) == before
        await learn(backend, data)
        assert await nll(backend, data) < before, "the next step is unharmed"

    play(scenario)


@pytest.mark.parametrize(
    "inputs",
    [
        {"target_tokens": np.zeros(2, dtype=np.int64), "weights": np.ones(3, dtype=np.float32)},
        {"target_tokens": np.full(3, 10**6), "weights": np.ones(3, dtype=np.float32)},
        {"target_tokens": np.zeros(3, dtype=np.int64)},
        {"target_tokens": np.zeros(3, dtype=np.int64), "weights": np.array([1, np.nan, 1], dtype=np.float32)},
    ],
)
def test_a_datum_that_does_not_fit_is_refused_with_a_sentence(play: Any, inputs: dict[str, Any]) -> None:
    async def scenario(backend: Backend) -> None:
        with pytest.raises(DataError, match="Datum 0"):
            await backend.forward_async([Datum(np.array([1, 2, 3]), inputs)])

    play(scenario)


def test_full_state_goes_on_bit_for_bit(play: Any) -> None:
    async def whole(backend: Backend) -> float:
        await learn(backend, datums(backend), steps=3)
        await learn(backend, datums(backend, start=3), steps=2)
        return await nll(backend, datums(backend))

    async def first_part(backend: Backend) -> str:
        await learn(backend, datums(backend), steps=3)
        uri = await backend.save_full_state("half")
        await learn(backend, datums(backend), steps=1)
        return uri

    async def second_part(backend: Backend) -> float:
        await backend.load_full_state(uri)
        await learn(backend, datums(backend, start=3), steps=2)
        return await nll(backend, datums(backend))

    expected = play(whole, "a")
    uri = play(first_part, "b")
    assert play(second_part, "c") == expected


def test_a_name_may_be_saved_twice_and_the_later_weights_count(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        first = await backend.save_full_state("same")
        await learn(backend, data)
        learnt = await nll(backend, data)
        assert await backend.save_full_state("same") == first
        await learn(backend, data, steps=2)
        await backend.load_full_state(first)
        assert await nll(backend, data) == learnt

    play(scenario)


def test_weights_saved_for_the_sampler_can_be_begun_from(play: Any) -> None:
    async def teach(backend: Backend) -> tuple[str, float]:
        await learn(backend, datums(backend), steps=5)
        await backend.save_full_state("taught")  # as the loop does: a hosted service begins from this one
        return await backend.save_for_sampler("taught"), await nll(backend, datums(backend))

    async def measure(backend: Backend) -> float:
        return await nll(backend, datums(backend))

    uri, taught = play(teach, "a")
    assert play(measure, "b", init_from_checkpoint=uri) == pytest.approx(taught, rel=1e-5)


def test_state_that_is_not_there_is_refused(play: Any, tmp_path: Path) -> None:
    async def scenario(backend: Backend) -> None:
        with pytest.raises(RecipeError):
            await backend.load_full_state(str(tmp_path / "nowhere"))

    play(scenario)


def test_submitting_does_not_wait_for_the_work(play: Any) -> None:
    async def scenario(backend: Backend) -> None:
        data = datums(backend)
        pending = [backend.forward_backward_async(data, loss_fn="cross_entropy") for _ in range(3)]
        pending.append(backend.optim_step_async(ADAM))  # type: ignore[arg-type]
        results = await asyncio.gather(*pending)
        assert results[0].metrics["loss:sum"] == results[2].metrics["loss:sum"]

    play(scenario)
