"""What the form's estimate knows of rows, model and machine."""

from __future__ import annotations

import pytest

from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.splits import Split
from evsys_web.runs import metrics
from evsys_web.runs.estimates import SAMPLE_ROWS, estimate_run, measured, rows_across, sample_tokens
from evsys_web.runs.models import Status
from recipes.config import RunConfig
from recipes.estimate import Measured
from tests.evsys_web.runs.conftest import mock_config


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.from_values({**mock_config(batch_size=4), "algorithm": {"kind": "sft", "params": {"batch_size": 4}}})


def test_a_small_dataset_is_counted_whole_by_the_models_own_template(alice, version, config):
    found = estimate_run(config, version, alice)
    assert found.steps == 3 and found.tokens is not None and found.trained_tokens is not None and found.seconds is not None
    assert found.tokens.low == found.tokens.high > found.trained_tokens.high > 0


def test_pairs_cost_both_of_their_sides(alice, project, config, tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = '{"prompt": "%s", "chosen": "2", "rejected": "3"}\n'
    path.write_text("".join(row % f"1 + {number}?" for number in range(4)))
    pairs = import_dataset(user=alice, project=project, name="pairs", path=path).version
    dpo = config.model_copy(update={"algorithm": config.algorithm.model_copy(update={"kind": "dpo"})})
    found = estimate_run(dpo, pairs, alice)
    assert found.steps == 1 and found.tokens is not None and found.trained_tokens is not None
    assert found.trained_tokens.high == 4 * 2 * 2, "of each of two sides, the digit and the end of the turn"


def test_a_second_look_reads_no_row(version, config, django_assert_num_queries, monkeypatch):
    first = sample_tokens(config, version)
    monkeypatch.setattr(type(version), "rows_between", lambda *args: pytest.fail("rows were read again"))
    assert sample_tokens(config, version) == first


def test_a_model_that_must_be_fetched_first_is_not_fetched_and_its_tokens_are_guessed(alice, version, config):
    far = config.model_copy(update={"model": config.model.model_copy(update={"name": "nobody/nothing-here"})})
    found, near = estimate_run(far, version, alice), estimate_run(config, version, alice)
    assert found.steps == 3 and found.tokens is not None and near.tokens is not None and found.seconds is None
    assert found.tokens.low < found.tokens.high < 3 * near.tokens.high and near.tokens.low < 3 * found.tokens.high
    assert "guessed from the length" in " ".join(found.notes)


def test_tasks_cost_what_is_sampled_for_them(alice, project, config, tmp_path):
    path = tmp_path / "tasks.jsonl"
    row = '{"task_id": "%d", "messages": [{"role": "user", "content": "1 + %d?"}], "answer": "2"}\n'
    path.write_text("".join(row % (number, number) for number in range(4)))
    tasks = import_dataset(user=alice, project=project, name="tasks", path=path).version
    choice = config.algorithm.model_copy(update={"kind": "rl", "params": {"num_samples": 4, "max_tokens": 16}})
    found = estimate_run(config.model_copy(update={"algorithm": choice}), tasks, alice)
    assert found.sampled_tokens == (16, 16 * 16) and found.prefill_tokens is not None
    assert found.prefill_tokens.high == 4 * found.prefill_tokens.low > 0


def test_rows_are_taken_over_the_whole_version(version):
    class Large:
        num_rows = 10_000
        asked: list[tuple[int, int]] = []

        def stretch(self, split: None) -> Split:
            return Split("", 0, self.num_rows)

        def rows_between(self, start: int, stop: int, split: None) -> list[dict[str, int]]:
            self.asked.append((start, stop))
            return [{"row": number} for number in range(start, stop)]

    rows = [row["row"] for row in rows_across(Large())]
    assert len(rows) == SAMPLE_ROWS and rows[0] == 0 and rows[-1] == 9_999


def test_speed_is_that_of_the_last_run_of_the_same_kind_and_of_no_strangers(alice, mallory, make_run, config):
    stored = config.model_dump(mode="json")
    run = make_run(config=stored, status=Status.COMPLETED)
    for step, speed in enumerate((1.0, 500.0, 700.0), 1):
        metrics.append(run, step, {"tokens/per_second": speed})
    other = make_run(config=mock_config(), status=Status.COMPLETED)
    metrics.append(other, 1, {"tokens/per_second": 9.0})
    assert measured(config, alice) == Measured(500.0, None, None)
    assert measured(config, mallory) == Measured()


def test_an_earlier_run_says_what_a_reply_takes(alice, make_run, config):
    choice = config.algorithm.model_copy(update={"kind": "rl", "params": {"batch_size": 2, "num_samples": 4}})
    rl = config.model_copy(update={"algorithm": choice})
    run = make_run(config=rl.model_dump(mode="json"), status=Status.COMPLETED)
    for step in range(1, 4):
        metrics.append(run, step, {"time/step": 4.0, "rollout/completion_tokens": 30.0})
    assert measured(rl, alice) == Measured(None, 0.5, 30.0)
