"""A cycle's settings: what is refused, and which evals and runs they make."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.cycle_config import CycleConfig
from recipes.errors import ConfigError

SIDES = {"learn": {"dataset": "a@1"}, "judge": {"path": "b.jsonl", "verifier": {"kind": "numeric"}}}
FIREWORKS: dict[str, Any] = {
    "model": {"name": "accounts/fireworks/models/qwen3-8b"},
    "backend": {"kind": "fireworks"},
    "training": {"kind": "fireworks_sft"},
    "rounds": 2,
}
STEPS = {"training": {"kind": "sft"}}


def promoted(which: str, **params: Any) -> dict[str, Any]:
    return {"backend": {"kind": "fireworks", "params": {"tokenizer": "Qwen/Qwen3-8B", "promote": which, **params}}}


def test_yaml_goes_in_and_comes_out_the_same() -> None:
    config = CycleConfig.from_values({**SIDES, "rounds": 2, "stop": {"target": 0.5}, "curation": {"filter": "0 < avg < 1"}})
    assert CycleConfig.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("values", "words", "path"),
    [
        ({"rounds": 0}, "greater than or equal to 1", ("rounds",)),
        ({"attempts": 0}, "greater than or equal to 1", ("attempts",)),
        ({"learn": {}}, "exactly one of benchmark, dataset and path", ("learn",)),
        ({"learn": {"dataset": "a", "path": "b"}}, "exactly one of", ("learn",)),
        ({"learn": {"benchmark": "a", "verifier": {}}}, "brings its verifier", ("learn",)),
        ({"learn": {"dataset": "a", "verifier": {"kind": "none_such"}}}, "none_such", ("learn", "verifier", "kind")),
        ({"curation": {"filter": "avg >"}}, "curation.filter", ("curation", "filter")),
        (
            {"training": {"kind": "sft", "params": {"learning_rate": 7}}},
            "less than or equal to 1",
            ("training", "params", "learning_rate"),
        ),
        ({"training": {"kind": "none_such"}}, "none_such", ("training", "kind")),
        ({"backend": {"kind": "none_such"}}, "none_such", ("backend", "kind")),
        ({"serving": {"accept_billing": True}}, "local does not; leave it away", ("serving",)),
        (FIREWORKS | {"serving": None}, "one for each of its evals, 5 at most", ("serving", "accept_billing")),
        (FIREWORKS | {"serving": {"longest_hours": 2}}, "or after 2 hours. Agree to that", ("serving", "accept_billing")),
        (FIREWORKS | {"model": {"name": "starter"}}, "no model of Fireworks", ("model", "name")),
        (
            FIREWORKS | {"model": FIREWORKS["model"] | {"checkpoint": "fireworks://acme/run-0/final"}},
            "is no model at Fireworks",
            ("model", "checkpoint"),
        ),
        (
            FIREWORKS | STEPS | {"backend": {"kind": "fireworks"}},
            "name the model's tokenizer",
            ("backend", "params", "tokenizer"),
        ),
        (FIREWORKS | STEPS | promoted("none"), "Set promote to final", ("backend", "params", "promote")),
        (FIREWORKS | STEPS | promoted("final"), "Agree to that", ("serving", "accept_billing")),
        (
            FIREWORKS | STEPS | promoted("final", trainer="dedicated", longest_hours=2),
            "(trainer: serverless). This cycle orders one for each of its rounds, 2 at most: 4 hours in all.",
            ("backend", "params", "accept_billing"),
        ),
        (FIREWORKS | {"training": {"kind": "fireworks_dpo"}}, "learns from preference rows", ("training", "kind")),
        (FIREWORKS | {"training": {"kind": "local_sft"}}, "does not train on fireworks", ("training", "kind")),
        (FIREWORKS | {"training": {"kind": "mock_sft"}}, "does not train on fireworks", ("training", "kind")),
        (FIREWORKS | {"backend": {"kind": "tinker"}}, "fireworks_sft does not train on tinker", ("training", "kind")),
        ({"curation": {"rows": "pairs"}}, "A cycle learns from attempts as chats", ("curation", "rows")),
        ({"training": {"kind": "dpo"}}, "dpo learns from preference rows", ("training", "kind")),
        ({"stop": {"target": 0}}, "greater than 0", ("stop", "target")),
        ({"learning_rate": 1}, "no setting of this name", ("learning_rate",)),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(values: dict[str, Any], words: str, path: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        CycleConfig.from_values({**SIDES, **values})
    assert words in str(refused.value) and refused.value.path == path, refused.value.path


def test_an_algorithm_that_learns_from_other_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.algorithms.sft import SFT
    from recipes.rows import RowFormat

    monkeypatch.setattr(SFT, "row_format", RowFormat.PREFERENCE)
    with pytest.raises(ConfigError, match="sft learns from preference rows, and attempts become chats") as refused:
        CycleConfig.from_values(SIDES)
    assert refused.value.path == ("training", "kind")


def test_its_evals_and_runs_have_its_settings() -> None:
    config = CycleConfig.from_values({**SIDES, "attempts": 3, "judge_attempts": 5, "model": {"name": "starter"}})
    learn, judge = (config.eval_config(side, name="e", checkpoint="w") for side in ("learn", "judge"))
    assert (learn.attempts, judge.attempts) == (3, 5)
    assert (learn.data.dataset, judge.data.path, judge.verifier.kind) == ("a@1", "b.jsonl", "numeric")
    assert learn.model is not None and learn.model.checkpoint == "w"
    run = config.run_config(name="r", dataset="rows@1", checkpoint="w")
    assert (run.data.dataset, run.model.init_from_checkpoint, run.algorithm.kind) == ("rows@1", "w", "sft")


def test_on_a_backend_that_serves_each_eval_has_the_deployment_that_was_agreed_to_and_no_run_knows_of_it() -> None:
    serving = {"accept_billing": True, "longest_hours": 0.5, "max_dollars_per_hour": 20}
    config = CycleConfig.from_values({**SIDES, **FIREWORKS, "serving": serving})
    assert CycleConfig.from_yaml(config.to_yaml()) == config and config.num_evals == 5
    for side in ("learn", "judge"):
        made = config.eval_config(side, name="e", checkpoint="fireworks://accounts/acme/models/m")  # type: ignore[arg-type]
        assert made.serving == config.serving
        made.check()
    run = config.run_config(name="r", dataset="rows@1", checkpoint="fireworks://accounts/acme/models/m")
    run.check()
    assert "serving" not in run.model_dump()
