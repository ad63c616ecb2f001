"""What an eval will take: tokens of prompts and replies, time from earlier ones, the price of who answers."""

from __future__ import annotations

from typing import Any

import pytest

from recipes import prices
from recipes.errors import ConfigError
from recipes.estimate import TokenSample
from recipes.eval_config import EvalConfig
from recipes.eval_estimate import MeasuredEval, estimate_eval
from recipes.prices import PriceList, rate_at

SAMPLE = TokenSample([100.0] * 10, [0.0] * 10)
DATED = {"as_of": "2026-11-01", "source": "a test"}


def config(**values: Any) -> EvalConfig:
    sampling = {"max_tokens": 50, **values.pop("sampling", {})}
    start = {"data": {"path": "tasks.jsonl"}, "attempts": 4, "sampling": sampling}
    return EvalConfig.model_validate(start | ({"model": {}} if "endpoint" not in values else {}) | values)


def endpoint(base_url: str = "https://host.example/v1", model: str = "big-1") -> dict[str, Any]:
    return {"base_url": base_url, "model": model}


@pytest.fixture
def price_list(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"hosts": ["host.example"], "models": ["big-*"], "per_million": {"prefill": 2.0, "sample": 8.0}, **DATED}]
    rate = {"backend": "tinker", "algorithms": ["*"], "models": ["m"], "per_million": {"prefill": 1.0, "sample": 3.0}, **DATED}
    given = PriceList.model_validate({"billed": ["tinker"], "prices": [rate], "endpoints": rows})
    monkeypatch.setattr(prices, "price_list", lambda: given)


def test_prompts_are_read_once_or_for_each_attempt_and_replies_end_at_the_cap() -> None:
    found = estimate_eval(config(), num_rows=10, sample=SAMPLE)
    assert (found.num_tasks, found.num_attempts) == (10, 40)
    assert found.prompt_tokens == (1000, 4000) and found.sampled_tokens == (40, 2000)
    assert found.dollars is None and "price" not in " ".join(found.notes).lower()
    few = estimate_eval(config(max_tasks=3), num_rows=10, sample=SAMPLE)
    assert (few.num_tasks, few.num_attempts, few.sampled_tokens.high) == (3, 12, 600)


def test_a_system_prompt_is_read_with_every_task() -> None:
    longer = estimate_eval(config(sampling={"system_prompt": "Think. " * 100}), num_rows=10, sample=SAMPLE)
    assert longer.prompt_tokens is not None and longer.prompt_tokens.low == 1000 and longer.prompt_tokens.high > 8000


def test_an_endpoint_of_the_list_has_a_price(price_list: None) -> None:
    found = estimate_eval(config(endpoint=endpoint()), num_rows=10, sample=SAMPLE)
    assert found.dollars is not None
    assert found.dollars.low == pytest.approx((1000 * 2 + 40 * 8) / 1e6)
    assert found.dollars.high == pytest.approx((4000 * 2 + 2000 * 8) / 1e6)
    assert "$2 per million tokens read" in " ".join(found.notes) and "as of 01 November 2026" in " ".join(found.notes)


@pytest.mark.parametrize(
    "answering",
    [endpoint(model="small"), endpoint("https://host.example.evil.test/v1"), endpoint("http://127.0.0.1:8000/v1")],
)
def test_any_other_endpoint_is_said_to_have_none(price_list: None, answering: dict[str, Any]) -> None:
    found = estimate_eval(config(endpoint=answering), num_rows=10, sample=SAMPLE)
    assert found.dollars is None and "The price is not known" in " ".join(found.notes)


def test_a_backend_beside_an_endpoint_is_said_to_do_nothing() -> None:
    both = config(endpoint=endpoint(), backend={"kind": "tinker"})
    assert "The endpoint answers: the backend tinker is not used." in estimate_eval(both, num_rows=10, sample=SAMPLE).notes


def test_a_hosted_backend_bills_and_ones_own_server_does_not(price_list: None) -> None:
    hosted = config(model={"name": "m"}, backend={"kind": "tinker"})
    found = estimate_eval(hosted, num_rows=10, sample=SAMPLE)
    assert found.dollars is not None and found.dollars.high == pytest.approx((4000 * 1 + 2000 * 3) / 1e6)
    assert "price of other" in " ".join(
        estimate_eval(config(model={"name": "other"}, backend={"kind": "tinker"}), num_rows=10, sample=SAMPLE).notes
    )
    own = config(model={"name": "m"}, backend={"kind": "tinker", "params": {"base_url": "http://127.0.0.1:1"}})
    assert estimate_eval(own, num_rows=10, sample=SAMPLE).dollars is None


def test_without_tokens_there_is_no_price_but_its_rate(price_list: None) -> None:
    found = estimate_eval(config(endpoint=endpoint()), num_rows=10)
    assert found.dollars is None and found.prompt_tokens is None
    assert "not known without the tokens" in " ".join(found.notes)


def test_an_earlier_eval_narrows_replies_and_gives_a_time() -> None:
    found = estimate_eval(config(), num_rows=10, sample=SAMPLE, measured=MeasuredEval(20.0, 0.5))
    assert found.sampled_tokens.low < 20 * 40 < found.sampled_tokens.high < 2000
    assert found.seconds is not None and found.seconds.low < 20 < found.seconds.high < 40


def test_what_a_judge_costs_is_not_passed_over() -> None:
    judged = config(verifier={"kind": "llm_judge", "params": {"base_url": "https://j.example/v1", "model": "j"}})
    assert "judge" in " ".join(estimate_eval(judged, num_rows=10, sample=SAMPLE).notes)


def test_wrong_settings_are_an_error_and_not_an_estimate() -> None:
    with pytest.raises(ConfigError, match="no verifier"):
        estimate_eval(config(verifier={"kind": "nothing"}), num_rows=5)


def test_the_list_itself_tells_models_of_one_family_apart() -> None:
    costs = {
        name: rate.per_million.sample
        for name in ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano", "gpt-4o-mini")
        if (rate := rate_at("API.OpenAI.com", name)) is not None
    }
    assert costs == {"gpt-4.1": 8, "gpt-4.1-mini": 1.6, "gpt-4.1-mini-2025-04-14": 1.6, "gpt-4.1-nano": 0.4, "gpt-4o-mini": 0.6}
    assert rate_at("api.openai.com", "gpt-5.4") is None and rate_at("localhost", "gpt-4.1") is None
