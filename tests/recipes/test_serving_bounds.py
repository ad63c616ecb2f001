"""The most that deployments can cost, before anybody agrees to it."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.backends.fireworks.config import FireworksConfig
from recipes.eval_config import Serving
from recipes.serving_bounds import bound_of
from recipes.serving_offers import in_a_sentence, told
from tests.fireworks_server import KEY, MODEL, fireworks_server
from tests.fireworks_serving import SHAPE


@pytest.mark.parametrize(
    ("settings", "num_evals", "replica_dollars", "dollars"),
    [
        ({"shape": "s"}, 7, 16.0, 7 * 4 * 16.0),
        ({}, 1, 16.0, 4 * 16.0),
        ({}, 7, 16.0, None),
        ({"shape": "s", "longest_hours": 0.5, "max_replicas": 3}, 5, 16.0, 5 * 0.5 * 3 * 16.0),
        ({"max_dollars_per_hour": 20}, 7, None, 7 * 4 * 20.0),
        ({"max_dollars_per_hour": 20, "shape": "s"}, 7, 16.0, 7 * 4 * 16.0),
        ({"max_dollars_per_hour": 20}, 7, 16.0, 7 * 4 * 20.0),
        ({}, 1, None, None),
    ],
)
def test_it_is_evals_times_hours_times_what_all_replicas_cost(
    settings: dict[str, Any], num_evals: int, replica_dollars: float | None, dollars: float | None
) -> None:
    bound = bound_of(Serving(**settings), num_evals=num_evals, replica_dollars=replica_dollars)
    assert bound.dollars == dollars


def test_it_is_told_in_a_sentence_with_what_it_is_made_of() -> None:
    serving = Serving(max_replicas=2, longest_hours=1.5, shape="s")
    assert bound_of(serving, num_evals=7, replica_dollars=8.0).sentence() == (
        "Serving costs at most $168.00: 7 evals, each on a deployment of at most 2 replicas for at most 1.5 hours, billed per"
        " GPU-second. A resume, a retry or a worker that is shut down costs that of an eval again."
    )
    unknown = bound_of(Serving(), num_evals=1).sentence()
    assert "at most is not known" in unknown and "1 replica for at most 4 hours" in unknown and "$" not in unknown


@pytest.mark.parametrize(
    ("accelerator", "settings", "is_answered", "words"),
    [
        ("NVIDIA_H100_80GB", {"shape": SHAPE}, True, ["about $16.00 an hour", "Serving costs at most $448.00: 7 evals"]),
        ("NVIDIA_H100_80GB", {}, True, ["about $16.00 an hour", f"name {SHAPE}.", "costs at most is not known: 7 evals"]),
        ("MYSTERY", {}, True, ["a price that is not known", "costs at most is not known: 7 evals"]),
        ("NVIDIA_H100_80GB", {"max_dollars_per_hour": 5}, False, ["is about $16.00", "allows $5.00. Nothing was made."]),
        ("MYSTERY", {"max_dollars_per_hour": 500}, False, ["is not known", "allows $500.00. Nothing was made."]),
    ],
)
def test_an_offer_says_what_all_evals_cost_or_that_none_would_be_made(
    accelerator: str, settings: dict[str, Any], is_answered: bool, words: list[str]
) -> None:
    with fireworks_server() as server:
        server.serving.accelerator = accelerator
        serving = Serving(**settings).model_dump()
        config = FireworksConfig(base_url=server.url)
        chosen = {"model": MODEL, "checkpoint": None, "serving": serving, "num_evals": 7}
        found = in_a_sentence(lambda: told("fireworks", config, **chosen, key=KEY), key=KEY)  # type: ignore[arg-type]
        assert found[0] is is_answered and all(each in found[1] for each in words), found
        assert not server.serving.deployments
