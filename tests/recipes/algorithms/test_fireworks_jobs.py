"""Managed jobs through the real SDK: what is sent, what is reported, what is left behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from recipes.checkpoints import Manifest
from recipes.resources import ResourceLog
from tests.fireworks_server import ACCOUNT, KEY, LINES, MODEL, FireworksServer, State
from tests.recipes.algorithms.managed import job_config, pairs, server, train
from tests.recipes.runs_under_test import Witness, chats

__all__ = ["server"]


def test_rows_go_up_a_job_is_ordered_and_its_model_is_a_checkpoint(server: FireworksServer, tmp_path: Path) -> None:
    seen = Witness()
    result = train(server, tmp_path, seen)
    assert (result.status, result.steps, result.error) == ("completed", 4, None)
    (name,) = server.jobs
    assert name.startswith("evsys-7-")
    assert [each.sampler_path for each in seen.checkpoints] == [f"fireworks://accounts/{ACCOUNT}/models/{name}"]
    assert Manifest(tmp_path).read()[0].state_path is None
    upload = server.last("POST", r":upload$")
    rows = [json.loads(line) for line in upload.body.split(b"\r\n\r\n")[1].splitlines() if line.startswith(b"{")]
    assert len(rows) == 10 and rows[0] == {"messages": chats()[0]["messages"]}


def test_every_setting_is_sent_under_the_vendors_name_and_what_it_refuses_is_not(server: FireworksServer, tmp_path: Path) -> None:
    given = {"learning_rate": 3e-4, "num_epochs": 2, "lora_rank": 16, "max_seq_len": 4096, "lr_warmup_steps": 5}
    train(server, tmp_path, **given, weight_decay=0.1, save_every=10, renderer="Qwen/Qwen3-8B")
    (name,) = server.jobs
    body = server.last("POST", r"supervisedFineTuningJobs$").json
    assert body == {
        "dataset": f"accounts/{ACCOUNT}/datasets/{name}-train",
        "displayName": "sums",
        "baseModel": MODEL,
        "outputModel": f"accounts/{ACCOUNT}/models/{name}",
        "epochs": 2,
        "learningRate": 3e-4,
        "batchSizeSamples": 4,
        "loraRank": 16,
        "maxContextLength": 4096,
        "learningRateWarmupSteps": 5,
        "optimizerWeightDecay": 0.1,
        "samplerCheckpointSaveIntervalSteps": 10,
        "rendererHuggingFaceRepoId": "Qwen/Qwen3-8B",
        "earlyStop": False,
        "evalAutoCarveout": False,
    }


def test_metrics_are_told_in_our_words_while_the_job_runs(server: FireworksServer, tmp_path: Path) -> None:
    seen = Witness()
    train(server, tmp_path, seen)
    assert seen.steps[1] == {
        "progress/done": 1 / 3,
        "train/loss": 2.0,
        "train/mean_nll": 2.0,
        "train/perplexity": 7.39,
        "optim/lr": 0.0001,
        "tokens/total": 100.0,
    }
    assert seen.evals[2] == {"eval/validation_nll": 1.7, "eval/validation_tokens": 40.0}
    assert seen.steps[3]["time/forward_backward"] == 0.5 and math.isnan(seen.steps[4]["train/loss"])
    assert [call for call in seen.calls if call.startswith("step")] == ["step 1", "step 2", "step 3", "step 4"]
    looks = server.count("GET", r"supervisedFineTuningJobs/[^/]+$")
    assert server.count("GET", "/signed/metrics/") == looks and not server.metrics_404


def test_the_first_file_is_not_there_and_bad_lines_are_passed_over(server: FireworksServer, tmp_path: Path) -> None:
    server.lines = ["not json", "[1]", '{"step": "x", "train/loss": 1}', '{"no": "step"}', *LINES, LINES[0].replace("2.0", "9.0")]
    server.walk = [State("RUNNING", len(server.lines)), State("COMPLETED", len(server.lines))]
    server.metrics_404 = 1
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed"
    assert sorted(seen.steps) == [1, 2, 3, 4] and seen.steps[1]["train/loss"] == 2.0, "what was told of a step stays"


def test_the_key_goes_to_the_service_and_to_no_signed_address_and_is_written_nowhere(
    server: FireworksServer, tmp_path: Path
) -> None:
    train(server, tmp_path)
    signed = [request for request in server.requests if request.path.startswith("/signed/")]
    assert signed and all("authorization" not in request.headers for request in signed)
    for path in tmp_path.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert KEY not in text and "signature=" not in text


def test_what_it_says_is_told_once_and_so_is_what_it_costs(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("PENDING", 0, "Waiting for two GPUs")] * 3 + [State("RUNNING", 4), State("COMPLETED", 4)]
    seen = Witness()
    train(server, tmp_path, seen)
    said = [message for _, message in seen.events]
    assert sum("Waiting for two GPUs" in message for message in said) == 1
    assert any("12.50 USD" in message for message in said)


def test_a_state_that_nobody_knows_is_work_under_way(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("POLISHING", 2), State("COMPLETED", 4)]
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed"
    assert any(level == "warning" and "POLISHING" in message for level, message in seen.events)


def test_held_out_rows_are_a_dataset_of_their_own(server: FireworksServer, tmp_path: Path) -> None:
    train(server, tmp_path, validation_fraction=0.3, early_stop=True)
    (name,) = server.jobs
    body = server.last("POST", r"supervisedFineTuningJobs$").json
    assert body["evaluationDataset"] == f"accounts/{ACCOUNT}/datasets/{name}-eval" and body["earlyStop"] is True
    counts = {
        each.json["datasetId"]: each.json["dataset"]["exampleCount"]
        for each in server.requests
        if each.path.endswith("/datasets")
    }
    assert counts == {f"{name}-train": "7", f"{name}-eval": "3"}


def test_only_the_last_turn_is_learnt_where_that_is_asked(server: FireworksServer, tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    train(server, tmp_path, rows=[{"messages": turns}] * 3, supervise="last_assistant")
    sent = json.loads(server.last("POST", r":upload$").body.split(b"\r\n\r\n")[1].splitlines()[0])["messages"]
    assert [message.get("weight") for message in sent] == [None, 0, None, None]


def test_a_run_begins_from_a_model_that_an_earlier_one_left_there(server: FireworksServer, tmp_path: Path) -> None:
    model = {"name": MODEL, "init_from_checkpoint": f"fireworks://accounts/{ACCOUNT}/models/before"}
    train(server, tmp_path, config=job_config(server, model=model))
    body = server.last("POST", r"supervisedFineTuningJobs$").json
    assert body["warmStartFrom"] == f"accounts/{ACCOUNT}/models/before" and "baseModel" not in body


@pytest.mark.parametrize(
    ("method", "loss"),
    [("dpo", {"method": "DPO", "dpo": {"beta": 0.2}}), ("orpo", {"method": "ORPO"})],
)
def test_preferences_say_their_loss_and_are_pairs(server: FireworksServer, tmp_path: Path, method: str, loss: object) -> None:
    server.lines = ['{"step": 1, "train/dpo_loss": 0.69, "train/margin": 0.1, "train/accuracy": 0.75}']
    server.walk = [State("RUNNING", 1), State("RUNNING", 1), State("COMPLETED", 1)]
    seen = Witness()
    result = train(server, tmp_path, seen, rows=pairs(), kind="fireworks_dpo", method=method, beta=0.2)
    assert result.status == "completed"
    body = server.last("POST", r"dpoJobs$").json
    assert body["lossConfig"] == loss and body["trainingConfig"]["baseModel"] == MODEL and "epochs" not in body
    assert seen.steps[1]["train/loss"] == 0.69 and seen.steps[1]["rewards/accuracies"] == 0.75
    first = json.loads(server.last("POST", r":upload$").body.split(b"\r\n\r\n")[1].splitlines()[0])
    assert (
        first["preferred_output"] == [{"role": "assistant", "content": "0"}] and first["input"]["messages"][0]["role"] == "user"
    )


def test_nothing_but_the_model_is_left_there(server: FireworksServer, tmp_path: Path) -> None:
    train(server, tmp_path)
    assert not server.datasets and not ResourceLog(tmp_path).left()
    assert not list(tmp_path.glob("*_rows.jsonl"))


def test_one_that_counts_aloud_does_not_fill_the_log(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 0, f"step {number} of 40 " + "x" * 5000) for number in range(40)] + [State("COMPLETED", 4)]
    seen = Witness()
    train(server, tmp_path, seen)
    said = [message for _, message in seen.events if "says RUNNING" in message]
    assert len(said) == 1 and len(said[0]) < 1200


def test_an_early_end_counts_once_its_model_is_there(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 2), State("EARLY_STOPPED", 2)]
    result = train(server, tmp_path)
    assert result.status == "completed" and result.steps == 2


def test_one_that_the_service_pauses_is_a_warning_and_is_waited_for(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 1), State("PAUSED", 1, "account suspended"), State("RUNNING", 3), State("COMPLETED", 4)]
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed"
    assert ("warning", f"The server at {server.url.partition('//')[2]} says PAUSED: account suspended") in seen.events
