"""Every setting of every algorithm does something on every backend, or is said to do nothing.

That a setting is read proves that it can have an effect, not that it has the right one; that is the other tests' business.
Algorithms that train on a backend are watched while they train on the mock one. What backends read of an algorithm's settings,
and what the runs of TRL and Fireworks do, is found in their source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import pytest

import recipes
from recipes.backends.mock import MockBackend
from recipes.config import RunConfig
from recipes.effects import effectless, ignored_by
from recipes.errors import ConfigError
from recipes.registry import algorithms, backends, backends_for, uses_backend
from tests.recipes.algorithms.test_rl import EARLY, task_rows
from tests.recipes.runs_under_test import chats, config, run

ROOT = Path(recipes.__file__).parent
SMALL: dict[str, Any] = {"batch_size": 4, "max_steps": 2}
SHORT: dict[str, Any] = {"max_tokens": 6, "num_samples": 2}
SAID = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
PAIRS = [{"prompt": [{"role": "user", "content": f"{n}?"}], **SAID} for n in range(6)]
GAMES = [{**row, "metadata": {"heaps": [2, 1]}} for row in task_rows(6)]
RUNS: dict[str, list[tuple[dict[str, Any], list[Any]]]] = {
    "sft": [({}, chats(6))],
    "dpo": [({}, PAIRS)],
    "sdft": [({"max_tokens": 6}, chats(6))],
    "rl": [
        (SHORT | EARLY, task_rows(6)),
        (SHORT | EARLY | {"environment": "calculator"}, task_rows(6)),
        (SHORT | {"environment": "nim"}, GAMES),
    ],
    "mock_sft": [({}, chats(6))],
}
"""Of each algorithm that trains on a backend: its own settings of some runs, and their rows."""
DRIVEN = ("algorithms/base.py", "schedules.py", "config.py", "backends/local/adapters.py")
JOBS = ("algorithms/fireworks_jobs.py", "algorithms/managed_run.py", "algorithms/managed_watch.py")
SOURCES = {
    "local_sft": ("algorithms/trl", "algorithms/sft.py", *DRIVEN),
    "local_dpo": ("algorithms/trl", "algorithms/dpo.py", *DRIVEN),
    "local_rl": ("algorithms/trl", "algorithms/rl.py", "algorithms/rewarded.py", *DRIVEN),
    "fireworks_sft": JOBS,
    "fireworks_dpo": JOBS,
    "fireworks_rft": ("algorithms/fireworks_rft.py", *JOBS),
}
"""Where those that train by themselves, or have it done elsewhere, read their settings."""
OF_THE_DATA = {"validation_fraction"}
"""Read where no rows to measure on are given; here some are, so that how they are measured is read."""


class Watched:
    """A Config that writes down what is read of it, by its own methods too."""

    def __init__(self, config: Any, seen: set[str]) -> None:
        self.__dict__.update(config=config, seen=seen)

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self.config), name, None)
        if isinstance(found, FunctionType):
            return MethodType(found, self)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        self.seen.add(name)
        return getattr(self.config, name)


class Watching:
    """In place of an algorithm's attribute `cfg`."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __set__(self, algorithm: Any, config: Any) -> None:
        algorithm.__dict__["watched"] = Watched(config, self.seen)

    def __get__(self, algorithm: Any, owner: type | None = None) -> Any:
        return algorithm.__dict__["watched"]


def read_in_a_run(kind: str, params: dict[str, Any], rows: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    algorithm, watching = algorithms.get(kind), Watching()
    monkeypatch.setattr(algorithm, "cfg", watching, raising=False)
    monkeypatch.setattr("recipes.algorithms.base.without_effect", lambda *anything: [])  # it looks at all of them
    backend = MockBackend(output_dir=folder) if uses_backend(algorithm) else None
    result = run(config(kind, **SMALL | params), folder, rows=rows, validation_rows=rows[:2], backend=backend)
    assert result.status == "completed", result.error
    return watching.seen


def read_in(*places: str) -> set[str]:
    """Names of attributes that the source of files and folders mentions."""
    files = [
        file for place in places for file in ([ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py")))
    ]
    return {node.attr for file in files for node in _nodes(file) if isinstance(node, ast.Attribute)}


@cache
def read_by_backend(kind: str) -> frozenset[str]:
    """What the backend's own modules take of `algorithm`, which `open` is given."""
    module = ROOT.parent / backends.get(kind).__module__.replace(".", "/")
    files = module.parent.glob("*.py") if module.parent.name == kind else [module.with_suffix(".py")]
    nodes = [node for file in files for node in _nodes(file) if isinstance(node, ast.Attribute)]
    return frozenset(node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "algorithm")


def _nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind, runs in RUNS.items() for number in range(len(runs))])
def test_every_setting_is_used_on_every_backend_or_said_to_do_nothing(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, rows = RUNS[kind][number]
    algorithm = algorithms.get(kind)
    settings = algorithm.Config.model_validate(SMALL | params)
    seen = read_in_a_run(kind, params, rows, tmp_path, monkeypatch)
    monkeypatch.undo()
    unread = set(type(settings).model_fields) - seen - OF_THE_DATA - ignored_by(algorithm) - set(settings.switched_off())
    for backend in backends_for(kind) if uses_backend(algorithm) else ["mock"]:
        assert unread <= read_by_backend(backend) | ignored_by(backends.get(backend)), f"{kind} on {backend}"


@pytest.mark.parametrize("kind", SOURCES)
def test_every_setting_is_named_where_others_train(kind: str) -> None:
    """Weaker than the above: the name of the setting stands in the source."""
    algorithm = algorithms.get(kind)
    assert set(algorithm.Config.model_fields) <= read_in(*SOURCES[kind]) | ignored_by(algorithm)


def test_no_algorithm_is_left_out() -> None:
    assert {*RUNS, *SOURCES} == set(algorithms._paths)


def test_a_setting_that_nobody_reads_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = read_in_a_run("mock_sft", {}, chats(6), tmp_path, monkeypatch)
    assert {"lora_rank", "renderer_name", "enable_thinking"}.isdisjoint(seen) and {"step_seconds", "adam_eps"} <= seen
    assert read_by_backend("tinker") == {"lora_rank", "seed"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"kind": "mock_sft", "backend": "tinker"},
            "mock_sft trains on mock whatever is chosen: the backend tinker is not used.",
        ),
        ({"kind": "mock_sft", "backend": "local", "lora_rank": 3}, "mock_sft does not use lora_rank; it has no effect."),
        ({"kind": "rl", "max_turns": 9}, "max_turns has no effect in the environment problem."),
        (
            {"kind": "rl", "environment": "nim", "verifier_name": "numeric"},
            "verifier_name has no effect in a game, which knows who has won.",
        ),
        ({"kind": "sft", "max_steps": 5, "num_epochs": 2}, "num_epochs has no effect while max_steps is set."),
        ({"kind": "local_sft", "lora_rank": 0, "lora_alpha_ratio": 1.0}, "lora_alpha_ratio has no effect with lora_rank 0."),
    ],
)
def test_what_another_choice_switches_off_is_named(values: dict[str, Any], sentence: str) -> None:
    assert sentence in effectless(config(values.pop("kind"), **{"backend": "local"} | values))


def test_what_a_hosted_job_is_not_asked_is_named() -> None:
    values: dict[str, Any] = {
        "data": {"path": "rows.jsonl"},
        "backend": {"kind": "fireworks"},
        "model": {"name": "accounts/a/models/m"},
    }
    job = {"kind": "fireworks_dpo", "params": {"method": "orpo", "beta": 0.2}}
    assert effectless(RunConfig.from_values(values | {"algorithm": job})) == ["beta has no effect under the method orpo."]


def test_what_a_backend_cannot_train_is_refused_before_the_run_waits() -> None:
    with pytest.raises(ConfigError, match="lora_rank of at least 1"):
        config(backend="tinker", lora_rank=0)
    there = {"kind": "fireworks", "params": {"tokenizer": "starter"}}
    values: dict[str, Any] = {"data": {"path": "rows.jsonl"}, "model": {"name": "accounts/a/models/m"}, "backend": there}
    assert RunConfig.from_values(values).backend.kind == "fireworks"
    begun = {"name": "accounts/a/models/m", "init_from_checkpoint": "x"}
    whole = {"kind": "sft", "params": {"lora_rank": 0}}
    for change, words in (
        ({"backend": {"kind": "fireworks"}}, "name the model's tokenizer"),
        ({"model": begun}, "no training there can begin from it"),
        ({"algorithm": whole}, "LoRA adapters only"),
    ):
        with pytest.raises(ConfigError, match=words):
            RunConfig.from_values(values | change)
    job = {"kind": "fireworks_sft", "params": {"lora_rank": 0}}
    assert RunConfig.from_values(values | {"algorithm": job, "backend": {"kind": "fireworks"}}).algorithm.kind == "fireworks_sft"
    assert config("mock_sft", backend="tinker", lora_rank=0).backend.kind == "tinker", "which is not used"


def test_what_a_backend_switches_off_is_named() -> None:
    values: dict[str, Any] = {"data": {"path": "rows.jsonl"}, "algorithm": {"kind": "sft", "params": {"lora_rank": 4}}}
    values |= {"model": {"name": "m", "init_from_checkpoint": "tinker://run/weights/1"}}
    begun = effectless(RunConfig.from_values(values | {"backend": {"kind": "tinker", "params": {"train_mlp": False}}}))
    assert [sentence.partition(" ")[0] for sentence in begun] == ["lora_rank", "train_mlp"]
    whole = {
        "algorithm": {"kind": "sft", "params": {"lora_rank": 0}},
        "backend": {"kind": "local", "params": {"dtype": "bfloat16"}},
    }
    assert effectless(RunConfig.from_values(values | whole)) == [
        "dtype has no effect with lora_rank 0: what is trained stays float32."
    ]


def test_what_only_a_dedicated_trainer_needs_is_named_in_the_pool_and_on_a_job() -> None:
    shape = "accounts/fireworks/trainingShapes/qwen3-8b-256k-h200-lora"
    chosen = {"tokenizer": "starter", "training_shape": shape, "accept_billing": True}
    values: dict[str, Any] = {"data": {"path": "rows.jsonl"}, "model": {"name": "accounts/fireworks/models/qwen3-8b"}}
    for kind, trainer, words in (
        ("sft", "serverless", "unless trainer is dedicated"),
        ("fireworks_sft", "dedicated", "on a job"),
    ):
        backend = {"kind": "fireworks", "params": {**chosen, "trainer": trainer}}
        told = effectless(RunConfig.from_values({**values, "algorithm": {"kind": kind}, "backend": backend}))
        named = {sentence.partition(" ")[0] for sentence in told if words in sentence}
        assert named == {"training_shape", "accept_billing"} | ({"trainer"} if kind == "fireworks_sft" else set())
    backend = {"kind": "fireworks", "params": {**chosen, "trainer": "dedicated"}}
    assert not effectless(RunConfig.from_values({**values, "algorithm": {"kind": "sft"}, "backend": backend}))
