"""Reinforcement jobs at Fireworks, with an evaluator that is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.resources import ResourceLog
from recipes.types import Row, RunResult
from tests.fireworks_server import ACCOUNT, MODEL, FireworksServer, State
from tests.recipes.algorithms.managed import broken, job_config, server, train, unheard
from tests.recipes.runs_under_test import Killed, KilledAfter, Witness

__all__ = ["server"]

JOBS = r"reinforcementFineTuningJobs$"
SAID = [
    '{"step": 1, "train/reward": 0.25, "train/loss": 0.1}',
    '{"step": 2, "train/reward": 0.5, "own/words": 3}',
    '{"step": 3, "train/reward": null}',
    '{"step": 4, "train/reward": 0.75}',
]


def tasks(count: int = 6) -> list[Row]:
    return [
        {"task_id": str(n), "messages": [{"role": "user", "content": f"{n} + {n}?"}], "answer": 2 * n, "metadata": {"level": n}}
        for n in range(count)
    ]


def rft(server: FireworksServer, folder: Path, *seen: Witness, **params: Any) -> RunResult:
    server.lines = SAID
    config = job_config(server, kind="fireworks_rft", **{"evaluator": "sums", **params})
    return train(server, folder, *seen, config=config, rows=tasks())


def test_a_job_is_ordered_with_its_evaluator_and_told_by_its_rewards(server: FireworksServer, tmp_path: Path) -> None:
    seen = Witness()
    given = {"num_samples": 4, "method": "dapo", "kl_beta": 0.01, "top_k": 50, "max_tokens": 64, "chunk_size": 100}
    result = rft(server, tmp_path, seen, **given, save_every=5, renderer="not/sent")
    assert (result.status, result.steps) == ("completed", 4), result.error
    (name,) = server.jobs
    assert server.last("POST", JOBS).json == {
        "dataset": f"accounts/{ACCOUNT}/datasets/{name}-train",
        "displayName": "sums",
        "evaluator": f"accounts/{ACCOUNT}/evaluators/sums",
        "trainingConfig": {
            "baseModel": MODEL,
            "outputModel": f"accounts/{ACCOUNT}/models/{name}",
            "epochs": 1,
            "learningRate": 1e-5,
            "batchSizeSamples": 4,
            "loraRank": 8,
            "learningRateWarmupSteps": 0,
            "optimizerWeightDecay": 0.0,
        },
        "lossConfig": {"method": "DAPO", "klBeta": 0.01},
        "inferenceParameters": {"responseCandidatesCount": 4, "temperature": 1.0, "topP": 1.0, "topK": 50, "maxOutputTokens": 64},
        "evalAutoCarveout": False,
        "chunkSize": 100,
    }
    assert [seen.steps[step]["reward/mean"] for step in (1, 2, 4)] == [0.25, 0.5, 0.75] and seen.steps[2]["own/words"] == 3
    assert [each.sampler_path for each in seen.checkpoints] == [f"fireworks://accounts/{ACCOUNT}/models/{name}"]
    assert not ResourceLog(tmp_path).left()


def test_rows_are_tasks_with_the_answer_where_the_evaluator_looks(server: FireworksServer, tmp_path: Path) -> None:
    assert rft(server, tmp_path, answer_field="expected").status == "completed"
    sent = [json.loads(line) for line in server.last("POST", r":upload$").body.splitlines() if line.startswith(b'{"messages"')]
    assert len(sent) == 6
    assert sent[2] == {
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "task_id": "2",
        "expected": 4,
        "metadata": {"level": 2},
    }


def test_an_evaluator_must_be_named_before_the_run_waits(server: FireworksServer) -> None:
    with pytest.raises(ConfigError, match="registered in the Fireworks account"):
        job_config(server, kind="fireworks_rft")


@pytest.mark.parametrize("wrong", [{"evaluator": "../x"}, {"evaluator": "Sums"}, {"answer_field": "messages"}])
def test_names_that_cannot_be_are_refused_in_the_form(server: FireworksServer, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        job_config(server, kind="fireworks_rft", **{"evaluator": "sums", **wrong})


@pytest.mark.parametrize(
    ("evaluators", "words"),
    [
        ({}, "has no evaluator sums"),
        ({"sums": "BUILDING"}, "still being built"),
        ({"sums": "BUILD_FAILED"}, "could not be built"),
    ],
)
def test_an_evaluator_that_cannot_judge_costs_nothing(
    server: FireworksServer, tmp_path: Path, evaluators: dict[str, str], words: str
) -> None:
    server.evaluators = evaluators
    assert words in (rft(server, tmp_path).error or "") and not server.datasets


@pytest.mark.parametrize("said", ["", "not json", "[1, 2]", '"step"'])
def test_metrics_that_cannot_be_read_are_no_curves_and_no_failure(server: FireworksServer, tmp_path: Path, said: str) -> None:
    server.faults.append(
        lambda request: (
            (200, {"dataset": "d", "evaluator": "e", "state": "JOB_STATE_COMPLETED", "outputMetrics": said})
            if request.method == "GET" and "reinforcementFineTuningJobs/" in request.path
            else None
        )
    )
    server.makes_model = True
    server.faults.append(lambda request: (200, {}) if "/models/evsys" in request.path else None)
    seen = Witness()
    assert rft(server, tmp_path, seen).status == "completed" and not seen.steps
    assert any("gave no metrics" in message for _, message in seen.events)


def test_it_is_found_again_stopped_and_resumed_like_other_jobs(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 1), State("RUNNING", 2), *[State("RUNNING", 3)] * 5, State("COMPLETED", 4)]
    server.faults += [unheard(server, "POST", JOBS, times=4), broken("POST", r":cancel$", times=4, status=503)]
    with pytest.raises(Killed):
        rft(server, tmp_path, KilledAfter(1))
    assert rft(server, tmp_path, Witness(stop_after=2)).status == "cancelled"
    seen = Witness()
    assert rft(server, tmp_path, seen).status == "completed" and len(server.jobs) == 1
    assert server.count("POST", r":resume$") == 1 and (seen.start_step or 0) >= 2
