"""The list of prices: dated, readable, taken row by row; and what an estimate makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from recipes import prices
from recipes.config import RunConfig
from recipes.estimate import TokenSample, estimate
from recipes.prices import PriceList, Weights, is_billed, models_of, price_list, rate_of, shape_of
from recipes.registry import algorithms, backends

SAMPLE = TokenSample([1000] * 4, [500] * 4)


def priced(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, object]) -> None:
    given = PriceList.model_validate({"billed": ["mock"], "prices": rows})
    monkeypatch.setattr(prices, "price_list", lambda: given)


def row(**values: object) -> dict[str, object]:
    return {
        "backend": "mock",
        "algorithms": ["*"],
        "models": ["*"],
        "per_million": {"train": 2.0},
        "as_of": "2026-11-01",
        "source": "a test",
        **values,
    }


def config(backend: str = "mock", **params: object) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"path": "rows.jsonl"}, "algorithm": {"kind": "sft", "params": params}, "backend": {"kind": backend}}
    )


def test_the_list_names_only_kinds_that_there_are_and_days_that_were():
    for rate in price_list().prices:
        assert rate.backend in backends.kinds() and rate.backend in price_list().billed
        assert set(rate.algorithms) <= {"*", *algorithms.kinds()}
        assert rate.as_of <= datetime.now(UTC).date()
    assert price_list().prices and models_of("fireworks")
    assert all(shape_of("fireworks", name) for name in models_of("fireworks")) and shape_of("fireworks", "other") is None


def test_the_first_row_that_fits_is_taken(monkeypatch):
    priced(monkeypatch, row(models=["small-*"], per_million={"train": 1.0}), row())
    assert rate_of("mock", "sft", "small-4b").per_million.train == 1.0
    assert rate_of("mock", "sft", "large").per_million.train == 2.0
    assert rate_of("local", "sft", "large") is None


def test_adapters_and_whole_models_have_their_own_prices(monkeypatch):
    priced(monkeypatch, row(weights="adapter", per_million={"train": 1.0}), row(weights="all"))
    assert rate_of("mock", "sft", "m", weights=Weights.ADAPTER).per_million.train == 1.0
    assert rate_of("mock", "sft", "m", weights=Weights.ALL).per_million.train == 2.0


def test_a_price_is_tokens_over_all_passes_times_the_rate_with_its_day_and_source(monkeypatch):
    priced(monkeypatch, row())
    found = estimate(config(batch_size=2, num_epochs=3), num_rows=4, sample=SAMPLE)
    assert found.dollars == pytest.approx((0.024, 0.024))
    assert "01 November 2026: a test" in " ".join(found.notes)


def test_what_is_sampled_and_read_is_billed_too_and_all_of_it_must_be_known(monkeypatch):
    pairs = config().model_copy(update={"algorithm": config().algorithm.model_copy(update={"kind": "dpo"})})
    priced(monkeypatch, row(per_million={"train": 2.0, "prefill": 1.0}))
    found = estimate(pairs, num_rows=4, sample=SAMPLE)
    assert found.dollars == pytest.approx((0.016, 0.016)), "4,000 trained, 4,000 before the first step and 4,000 in it"
    assert "$2 per million trained tokens, $1 per million read tokens" in " ".join(found.notes)
    priced(monkeypatch, row())
    unknown = estimate(pairs, num_rows=4, sample=SAMPLE)
    assert unknown.dollars is None and "price is not known of read tokens" in " ".join(unknown.notes)


def test_tinker_bills_and_a_server_of_its_protocol_does_not():
    values = config("tinker").model_dump() | {"model": {"name": "Qwen/Qwen3-8B"}}
    hosted = estimate(RunConfig.model_validate(values), num_rows=4, sample=SAMPLE)
    assert hosted.dollars is not None and 0 < hosted.dollars.low < 0.01 and "07 October 2026" in " ".join(hosted.notes)
    values["backend"]["params"] = {"base_url": "http://127.0.0.1:8000"}
    own = estimate(RunConfig.model_validate(values), num_rows=4, sample=SAMPLE)
    assert own.dollars is None and "price" not in " ".join(own.notes).lower()
    values["model"]["name"], values["backend"]["params"] = "nobody/knows", {}
    unknown = estimate(RunConfig.model_validate(values), num_rows=4, sample=SAMPLE)
    assert unknown.dollars is None and "price is not known for this model" in " ".join(unknown.notes)


def test_whole_models_are_priced_as_such(monkeypatch):
    priced(monkeypatch, row(weights="all"))
    assert estimate(config(lora_rank=0), num_rows=4, sample=SAMPLE).dollars is not None
    unknown = estimate(config(lora_rank=8), num_rows=4, sample=SAMPLE)
    assert unknown.dollars is None and "price is not known for this model" in " ".join(unknown.notes)


def test_an_unknown_price_is_said_where_somebody_bills_and_nowhere_else(monkeypatch):
    priced(monkeypatch)
    assert "price is not known" in " ".join(estimate(config(), num_rows=4).notes)
    assert "price" not in " ".join(estimate(config("local"), num_rows=4, sample=SAMPLE).notes).lower()
    assert is_billed("mock") and not is_billed("local")


@pytest.mark.parametrize(
    "wrong",
    [{"per_million": {"train": -1}}, {"as_of": "yesterday"}, {"models": []}, {"per_million": {"trian": 1}}, {"source": ""}],
)
def test_a_mistake_in_the_list_is_no_price(wrong):
    with pytest.raises(ValidationError):
        PriceList.model_validate({"billed": [], "prices": [row(**wrong)]})
