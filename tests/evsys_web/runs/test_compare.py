"""Several runs side by side."""

from __future__ import annotations

import json
import re

from django.test import Client

from evsys_web.runs import metrics
from evsys_web.runs.comparison import compare_configs
from recipes.algorithms.sft import SFTConfig
from tests.evsys_web.runs.conftest import mock_config


def compare(client: Client, *runs) -> str:
    return client.get("/runs/compare", {"run": [str(getattr(run, "pk", run)) for run in runs]}).content.decode()


def script(page: str, name: str):
    return json.loads(re.search(rf'<script id="{name}"[^>]*>(.*?)</script>', page, re.DOTALL).group(1))


def test_the_charts_get_every_run_in_the_order_asked(alice_client: Client, make_run):
    first, second = make_run(name="first"), make_run(name="second")
    metrics.append(first, 1, {"train/mean_nll": 1.0})
    metrics.append(second, 1, {"eval/only_here": 1.0})
    page = compare(alice_client, second, first)
    assert [run["name"] for run in script(page, "chart-runs")] == ["second", "first"]
    assert script(page, "chart-keys") == ["eval/only_here", "train/mean_nll"]


def test_only_what_differs_is_listed(alice_client: Client, make_run):
    page = compare(alice_client, make_run(config=mock_config(batch_size=4)), make_run(config=mock_config(batch_size=8)))
    assert "algorithm.params.batch_size" in page and "backend.kind" not in page


def test_a_setting_left_away_counts_as_its_default():
    short = {"model": {"name": "starter"}, "data": {"dataset": "sums@1"}, "algorithm": {"kind": "sft"}}
    said = short | {"algorithm": {"kind": "sft", "params": {"lora_rank": 32, "batch_size": 8}}}
    default = SFTConfig().batch_size
    found = {row.path: row.values for row in compare_configs([short, said])}
    assert found["algorithm.params.batch_size"] == [str(default), "8"]
    assert set(found) <= {"algorithm.params.batch_size", "algorithm.params.lora_rank"}


def test_runs_with_the_same_settings_are_called_the_same(alice_client: Client, make_run):
    assert "their settings are the same" in compare(alice_client, make_run(), make_run(name="twin"))


def test_strangers_runs_and_nonsense_are_left_out(mallory_client: Client, alice_client: Client, make_run):
    run = make_run(name="secret")
    assert "secret" not in compare(mallory_client, run, run)
    assert "Choose two runs or more" in compare(alice_client, run, run, "x", "99999999999999999999999", "-1")


def test_hostile_names_cannot_leave_the_script_block(alice_client: Client, make_run):
    page = compare(alice_client, make_run(name="</script><script>alert(1)</script>"), make_run())
    assert "<script>alert" not in page


def test_a_setting_that_one_run_does_not_have_is_empty_there():
    rows = compare_configs([{"name": "a", "x": {"y": 1, "z": [1]}}, {"name": "b", "x": {"y": True, "z": [1]}, "w": None}])
    assert [tuple(row) for row in rows] == [("x.y", ["1", "true"]), ("w", ["", "null"])]
