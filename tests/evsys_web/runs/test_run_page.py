"""A run's own page: header, tabs, curves, downloads, and the buttons that act."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client

from evsys_web.runs import metrics
from evsys_web.runs.headlines import chart_order, headline_of
from evsys_web.runs.models import Checkpoint, RunEvent, Status, TrainingRun
from tests.evsys_web.runs.conftest import mock_config


def page(client: Client, run: TrainingRun, part: str = "") -> str:
    return client.get(f"/runs/{run.pk}/{part}").content.decode()


def body(answer: Any) -> bytes:
    """Of a download, which streams asynchronously."""

    async def read() -> bytes:
        return b"".join([chunk async for chunk in answer.streaming_content])

    return async_to_sync(read)()


def with_checkpoint(run: TrainingRun, runs_dir: Path, name: str = "final") -> Checkpoint:
    folder = runs_dir / str(run.pk) / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return Checkpoint.objects.create(
        run=run,
        name=name,
        step=9,
        sampler_uri=str(folder),
        state_uri=str(folder),
        metrics={"train/mean_nll": 0.25, "optim/lr": 1},
    )


def test_a_live_run_opens_one_stream_from_what_the_page_knows(alice_client: Client, make_run):
    run = make_run(status=Status.RUNNING, step=3, num_steps=10)
    metrics.append(run, 3, {"train/mean_nll": 1.5})
    text = page(alice_client, run)
    assert f'data-live-url="/runs/{run.pk}/live?after=1"' in text
    assert text.count("data-live-url") == 1
    assert "Stop" in text and "Resume" not in text


def test_an_ended_run_opens_none(alice_client: Client, make_run):
    assert 'data-live-url=""' in page(alice_client, make_run(status=Status.COMPLETED))


def test_what_broke_a_run_stands_on_top_with_what_to_do(alice_client: Client, make_run, version, runs_dir):
    run = make_run(
        status=Status.FAILED, error="Memory ran out: lower the batch. <b>", error_detail="Traceback …", dataset_version=version
    )
    text = page(alice_client, run)
    assert "Memory ran out: lower the batch. &lt;b&gt;" in text
    assert "resume starts again from the beginning" in text
    assert "Traceback" not in text  # for staff only
    with_checkpoint(run, runs_dir)
    assert "Resume goes on from step 9" in page(alice_client, run)


def test_staff_see_the_traceback(alice, alice_client: Client, make_run):
    alice.is_staff = True
    alice.save()
    assert "Traceback of it" in page(
        alice_client, make_run(status=Status.CRASHED, error="It crashed.", error_detail="Traceback of it")
    )


@pytest.mark.parametrize(
    ("status", "offered", "absent"),
    [
        (Status.QUEUED, ["Cancel", "Clone", "Delete run"], ["Resume"]),
        (Status.RUNNING, ["Stop", "Clone"], ["Resume", "Delete run"]),
        (Status.STOPPING, ["Stop at once"], ["Delete run"]),
        (Status.COMPLETED, ["Clone", "Delete run"], ["Stop", "Resume"]),
        (Status.CANCELLED, ["Resume", "Clone", "Delete run"], ["Stop"]),
    ],
)
def test_only_what_can_be_done_is_offered(alice_client: Client, make_run, version, status, offered, absent):
    text = page(alice_client, make_run(status=status, dataset_version=version), "header")
    assert all(word in text for word in offered)
    assert not any(f">{word}" in text or f'"{word}"' in text for word in absent)


def test_the_buttons_act(alice_client: Client, make_run, version, runs_dir):
    run = make_run(dataset_version=version)
    assert alice_client.post(f"/runs/{run.pk}/stop").url == run.get_absolute_url()
    run.refresh_from_db()
    assert run.status == Status.CANCELLED
    alice_client.post(f"/runs/{run.pk}/resume")
    run.refresh_from_db()
    assert run.status == Status.QUEUED
    assert alice_client.post(f"/runs/{run.pk}/delete").url == "/runs/"
    assert not TrainingRun.objects.filter(pk=run.pk).exists()


def test_a_button_that_comes_too_late_is_answered_with_a_sentence(alice_client: Client, make_run):
    run = make_run(status=Status.COMPLETED)
    text = alice_client.post(f"/runs/{run.pk}/stop", follow=True).content.decode()
    assert "This run is completed and cannot be stopped." in text


def test_a_member_cannot_delete_what_somebody_else_started(bob_client: Client, make_run):
    run = make_run(status=Status.COMPLETED)
    assert "Only whoever made this" in bob_client.post(f"/runs/{run.pk}/delete", follow=True).content.decode()
    assert TrainingRun.objects.filter(pk=run.pk).exists()


@pytest.mark.parametrize(
    "part", ["", "header", "checkpoints", "events", "series", "yaml", "live", "metrics.csv", "checkpoints/1"]
)
def test_a_stranger_finds_nothing(mallory_client: Client, make_run, part):
    assert mallory_client.get(f"/runs/{make_run().pk}/{part}").status_code == 404


@pytest.mark.parametrize("action", ["stop", "resume", "delete"])
def test_a_stranger_moves_nothing_and_a_link_neither(mallory_client: Client, alice_client: Client, make_run, action):
    run = make_run()
    assert mallory_client.post(f"/runs/{run.pk}/{action}").status_code == 404
    assert alice_client.get(f"/runs/{run.pk}/{action}").status_code == 405
    run.refresh_from_db()
    assert run.status == Status.QUEUED


def series(client: Client, run: TrainingRun, **query: str) -> dict:
    return json.loads(client.get(f"/runs/{run.pk}/series", {"key": "train/mean_nll", **query}).content)


def test_curves_come_thinned_with_their_true_count_and_what_is_no_number(alice_client: Client, make_run):
    run = make_run()
    for step in range(1, 101):
        metrics.append(run, step, {"train/mean_nll": math.nan if step == 50 else 1 / step})
    whole, thin = series(alice_client, run), series(alice_client, run, points="10")
    assert (len(whole["series"]["train/mean_nll"]["x"]), "min" in whole["series"]["train/mean_nll"]) == (100, False)
    curve = thin["series"]["train/mean_nll"]
    assert (len(curve["x"]), curve["count"], curve["max"][0]) == (10, 100, 1.0)
    assert curve["non_finite"] == [{"x": 50.0, "value": "NaN"}]
    assert thin["last_seq"] == 100 and thin["keys"] == ["train/mean_nll"]
    assert series(alice_client, make_run())["keys"] == []


def test_zooming_gives_the_range_in_detail(alice_client: Client, make_run):
    run = make_run()
    for step in range(1, 101):
        metrics.append(run, step, {"train/mean_nll": float(step), "tokens/total": 10.0 * step})
    near = series(alice_client, run, start="40", stop="49", points="10")
    assert near["series"]["train/mean_nll"]["y"] == [float(step) for step in range(40, 50)]
    assert series(alice_client, run, x="tokens", start="400", stop="400")["series"]["train/mean_nll"]["x"] == [400.0]


@pytest.mark.parametrize(
    "query", [{"start": "x"}, {"points": "-5"}, {"points": "nan"}, {"x": "moon"}, {"stop": "inf"}, {"key": "no/such"}]
)
def test_nonsense_in_the_query_does_no_harm(alice_client: Client, run: TrainingRun, query):
    assert alice_client.get(f"/runs/{run.pk}/series", query).status_code == 200


def test_the_loss_is_the_first_chart_of_its_group():
    assert chart_order({"train/aaa", "optim/lr", "train/mean_nll"}) == ["optim/lr", "train/mean_nll", "train/aaa"]


def test_a_run_of_rewards_is_headed_by_its_reward(alice_client: Client, make_run):
    run = make_run(config=mock_config() | {"algorithm": {"kind": "rl", "params": {}}}, status=Status.RUNNING)
    metrics.append(run, 1, {"reward/mean": 0.375, "reward/correct": 0.5, "train/mean_nll": 2.5})
    text = page(alice_client, run)
    assert '<div class="stat-label">Reward</div><div class="stat-value" data-live="headline">0.375</div>' in text
    assert 'data-headline="reward/mean"' in text and 'data-headlines="reward/mean"' in text
    assert chart_order(["train/mean_nll", "reward/correct", "reward/mean"], [headline_of(run)])[0] == "reward/mean"


def test_a_checkpoint_can_be_downloaded_and_gone_on_from(alice_client: Client, make_run, runs_dir):
    run = make_run(status=Status.COMPLETED)
    saved = with_checkpoint(run, runs_dir)
    text = page(alice_client, run, "checkpoints")
    assert "7 bytes" in text.replace("\xa0", " ") and "train/mean_nll" in text and "optim/lr" not in text
    assert f"/runs/new?checkpoint={saved.pk}" in text
    archive = body(alice_client.get(f"/runs/{run.pk}/checkpoints/{saved.pk}"))
    assert zipfile.ZipFile(io.BytesIO(archive)).namelist() == ["adapter_model.safetensors"]


def test_weights_kept_elsewhere_are_no_download(alice_client: Client, run: TrainingRun):
    saved = Checkpoint.objects.create(run=run, name="hosted", step=3, sampler_uri="tinker://somewhere/weights")
    assert "Download" not in page(alice_client, run, "checkpoints")
    answer = alice_client.get(f"/runs/{run.pk}/checkpoints/{saved.pk}", follow=True)
    assert "not on this server" in answer.content.decode()


def test_another_runs_checkpoint_is_not_this_runs(alice_client: Client, make_run, runs_dir):
    saved = with_checkpoint(make_run(), runs_dir)
    assert alice_client.get(f"/runs/{make_run().pk}/checkpoints/{saved.pk}").status_code == 404


def test_lineage_reads_both_ways(alice_client: Client, make_run, version, runs_dir):
    parent = make_run(name="parent", dataset_version=version)
    saved = with_checkpoint(parent, runs_dir)
    child = make_run(
        name="child", config={**mock_config(), "model": {"name": "starter", "init_from_checkpoint": saved.sampler_uri}}
    )
    clone = make_run(name="the clone", cloned_from=parent)
    text = page(alice_client, parent)
    assert "child" in text and "the clone" in text and version.get_absolute_url() in text and "12 rows" in text
    assert saved.get_absolute_url() in page(alice_client, child)
    assert parent.get_absolute_url() in page(alice_client, clone)


def test_a_dataset_deleted_meanwhile_is_said(alice_client: Client, make_run, version):
    run = make_run(status=Status.FAILED, error="Lost.", dataset_version=version, dataset_reference="sums@1")
    version.dataset.delete()
    text = page(alice_client, run)
    assert "(deleted since)" in text and "/resume" not in text
    assert "It cannot go on without its rows." in text and "resume starts again" not in text


def test_events_are_read_newest_first_and_escaped(alice_client: Client, run: TrainingRun):
    for seq, message in enumerate(("first", "<i>second</i>"), 1):
        RunEvent.objects.create(run=run, seq=seq, message=message)
    text = page(alice_client, run, "events")
    assert text.index("&lt;i&gt;second") < text.index("first")


def test_a_config_that_todays_code_refuses_is_still_shown(alice_client: Client, make_run):
    run = make_run(config={"algorithm": {"kind": "gone"}, "leftover": 1})
    assert "leftover: 1" in page(alice_client, run)
    assert "leftover" in page(alice_client, run, "yaml")


def test_every_point_can_be_taken_home(alice_client: Client, run: TrainingRun):
    metrics.append(run, 1, {"train/mean_nll": 0.5})
    lines = body(alice_client.get(f"/runs/{run.pk}/metrics.csv")).decode().splitlines()
    assert lines[0].endswith("train/mean_nll") and lines[1].endswith("0.5")


def test_the_page_costs_few_queries_however_long_the_run(alice_client: Client, run, django_assert_max_num_queries):
    for step in range(1, 50):
        metrics.append(run, step, {"train/mean_nll": 1.0})
        Checkpoint.objects.create(run=run, name=f"step-{step}", step=step)
        RunEvent.objects.create(run=run, seq=1000 + step, message="x")
    with django_assert_max_num_queries(20):
        alice_client.get(run.get_absolute_url())
