"""What goes wrong at Fireworks is a sentence in its words, and nothing is made there that need not be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recipes.algorithms import managed_watch
from recipes.backends.fireworks import jobs as jobs_module
from recipes.errors import ConfigError
from recipes.managed_jobs import JobKind
from recipes.managed_metrics import Ledger, translated
from tests.fireworks_server import ACCOUNT, Fault, FireworksServer, Request, State
from tests.recipes.algorithms.managed import failing, job_config, pairs, server, train
from tests.recipes.runs_under_test import Witness, chats

__all__ = ["server"]

SLOW = [State("RUNNING", 1), State("RUNNING", 2), *[State("RUNNING", 3)] * 200, State("COMPLETED", 4)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (failing("POST", "/datasets", 403, "training is not enabled for this account"), "training is not enabled"),
        (failing("POST", "JOBS", 429, "GPU quota exceeded: 0 of 0"), "GPU quota exceeded"),
        (failing("POST", "JOBS", 400, "loraRank must be at most 8"), "loraRank must be at most 8"),
        (failing("GET", "/models/", 404, "gone"), "has no model"),
        (failing("POST", ":upload", 413, "too large"), "too large"),
        (failing("GET", "/datasets/", 500, "internal"), "failure of its own"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(server: FireworksServer, tmp_path: Path, fault: Fault, words: str) -> None:
    server.faults.append(lambda request: fault(request._replace(path=request.path.replace("supervisedFineTuningJobs", "JOBS"))))
    seen = Witness()
    result = train(server, tmp_path, seen, config=job_config(server, backend={"outage_seconds": 1}))
    assert result.status == "failed" and result.error is not None and words in result.error
    assert not server.jobs and seen.calls[-1] == "end"


def test_a_wrong_key_says_where_keys_are_kept(server: FireworksServer, tmp_path: Path) -> None:
    result = train(server, tmp_path, key="wrong")
    assert result.status == "failed" and "Credentials" in (result.error or "") and "wrong" not in (result.error or "")


def test_a_key_is_needed_and_the_workers_own_goes_to_fireworks_only(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIREWORKS_API_KEY", "the-workers-own")
    result = train(server, tmp_path, key="")
    assert "needs a key" in (result.error or "") and not server.requests


@pytest.mark.parametrize(("accounts", "words"), [(["acme", "other"], "several accounts: acme, other"), ([], "no account")])
def test_whose_account_it_is_must_be_clear(server: FireworksServer, tmp_path: Path, accounts: list[str], words: str) -> None:
    server.accounts = accounts
    assert words in (train(server, tmp_path).error or "")


def test_a_named_account_is_taken_without_asking(server: FireworksServer, tmp_path: Path) -> None:
    config = job_config(server, backend={"account_id": f"accounts/{ACCOUNT}"})
    assert train(server, tmp_path, config=config).status == "completed" and not server.count("GET", "accounts$")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tunable": False}, "does not fine-tune"),
        ({"tunable": True, "supportsLora": False}, "lora_rank to 0"),
        ({"tunable": True, "supervisedLoraTunable": False}, "with adapters"),
    ],
)
def test_a_model_that_cannot_be_tuned_costs_nothing(
    server: FireworksServer, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    server.models = dict.fromkeys(server.models, fields)
    assert words in (train(server, tmp_path).error or "") and not server.datasets


def test_rows_that_it_finds_wrong_are_told(server: FireworksServer, tmp_path: Path) -> None:
    server.refused_rows = "row 3: messages must alternate"
    assert "row 3: messages must alternate" in (train(server, tmp_path).error or "")


def test_a_job_that_failed_is_told_in_its_words(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 2), State("FAILED", 2, "out of memory on node 3")]
    result = train(server, tmp_path)
    assert (result.status, result.steps) == ("failed", 2) and "out of memory on node 3" in (result.error or "")


def test_a_job_that_failed_leaves_its_last_checkpoint_as_a_model(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 3), State("FAILED", 3, "node lost")]
    name = f"accounts/{ACCOUNT}/supervisedFineTuningJobs/any/checkpoints/step-2"
    server.checkpoints = [{"name": name, "createTime": "2026-11-01", "promotable": True}]
    seen = Witness()
    assert train(server, tmp_path, seen, save_every=2).status == "failed"
    assert [(each.name, each.step) for each in seen.checkpoints] == [("step_2", 2)]


def test_two_rows_are_too_few_before_anything_is_sent(server: FireworksServer, tmp_path: Path) -> None:
    assert "3 to 3,000,000 rows" in (train(server, tmp_path, rows=chats(2)).error or "") and not server.requests


def test_replies_of_several_turns_are_refused_with_their_row(server: FireworksServer, tmp_path: Path) -> None:
    rows = pairs(3)
    rows[1]["chosen"] = [{"role": role, "content": "x"} for role in ("assistant", "user", "assistant")]
    result = train(server, tmp_path, rows=rows, kind="fireworks_dpo")
    assert "Row 2, chosen" in (result.error or "") and not server.datasets


def test_more_than_it_takes_at_once_goes_to_a_signed_address(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "UPLOAD_AT_ONCE_BYTES", 100)
    assert train(server, tmp_path).status == "completed"
    put = server.last("PUT", "/signed/upload/")
    assert put.body.count(b"\n") == 10 and "authorization" not in put.headers
    assert put.headers["x-goog-content-length-range"] == f"{len(put.body)},{len(put.body)}"
    assert server.count("POST", ":validateUpload$") == 1 and not server.count("POST", ":upload$")


def test_an_address_inside_the_network_is_not_called(
    server: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(request: Request) -> tuple[int, Any] | None:
        if request.method == "GET" and re.search(r"FineTuningJobs/[^/]+$", request.path) and server.jobs:
            return 200, {"dataset": "d", "state": "JOB_STATE_COMPLETED", "metricsFileSignedUrl": "http://169.254.169.254/latest"}
        return None

    monkeypatch.setattr(managed_watch, "MODEL_SECONDS", 0.0)
    server.faults.append(elsewhere)
    seen = Witness()
    result = train(server, tmp_path, seen)
    assert any("no https address" in message and "169.254" not in message for _, message in seen.events)
    assert "shows no model" in (result.error or "")


def test_a_hiccup_is_waited_out(server: FireworksServer, tmp_path: Path) -> None:
    server.faults.append(failing("GET", "supervisedFineTuningJobs", 503, "busy", times=4))
    seen = Witness()
    assert train(server, tmp_path, seen).status == "completed"
    assert any("answers again" in message for _, message in seen.events)


def test_an_outage_has_an_end_and_leaves_the_job_to_be_found(server: FireworksServer, tmp_path: Path) -> None:
    down = failing("GET", "supervisedFineTuningJobs", 503, "busy")
    server.faults.append(down)
    result = train(server, tmp_path, config=job_config(server, backend={"outage_seconds": 1}))
    assert result.status == "failed" and "resume this run" in (result.error or "")
    server.faults.clear()
    assert train(server, tmp_path, config=job_config(server, backend={"outage_seconds": 1})).status == "completed"
    assert len(server.jobs) == 1


def test_what_stands_still_is_cancelled_with_its_last_words(server: FireworksServer, tmp_path: Path) -> None:
    server.walk = [State("RUNNING", 0, "loading shards")] * 1000
    result = train(server, tmp_path, no_progress_seconds=0.3)
    assert result.status == "failed" and "loading shards" in (result.error or "") and "cancelled" in (result.error or "")
    assert server.count("POST", ":cancel$") == 1


def test_weights_from_elsewhere_are_refused(server: FireworksServer, tmp_path: Path) -> None:
    config = job_config(server, model={"name": "accounts/fireworks/models/qwen3-8b", "init_from_checkpoint": "/runs/3/final"})
    result = train(server, tmp_path, config=config)
    assert "lies elsewhere" in (result.error or "") and not server.datasets


@pytest.mark.parametrize("rank", [3, 64, -1])
def test_a_rank_that_no_job_takes_is_refused_in_the_form(server: FireworksServer, rank: int) -> None:
    with pytest.raises(ConfigError, match="lora_rank"):
        job_config(server, lora_rank=rank)


def test_metrics_are_read_leniently() -> None:
    hostile = {"step": 1, "train/loss": "NaN", "a" * 300 + "/b": 1, "own/thing": 2, "text": "x", "train/lr": True, ":seq/x": 3}
    found = translated(hostile, JobKind.SFT)
    assert set(found) == {"train/loss", "train/mean_nll", "own/thing"} and found["train/loss"] != found["train/loss"]
    many = {"step": 1} | {f"x/{number}": number for number in range(500)}
    assert len(translated(many, JobKind.DPO)) == 64
    ledger = Ledger(JobKind.DPO)
    assert ledger.take([{"step": bad, "train/loss": 1} for bad in (-1, "1", None, float("inf"), True)]) == []
    assert [each.step for each in ledger.take([{"step": 2, "train/loss": 1}, {"step": 1.0, "train/loss": 1}])] == [1, 2]
