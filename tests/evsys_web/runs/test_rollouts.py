"""What a run sampled, on its page and over REST; and the panel that says whether reinforcement learning goes well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from evsys_web.runs import metrics
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.sanity import SIGNALS, sanity
from recipes.rollout_log import ROLLOUTS_FILE, RolloutsFile
from recipes.types import LoopState, Trajectory
from tests.evsys_web.runs.conftest import mock_config

NASTY = "<script>alert(1)</script> \ud800 \x00 {{ 7 }}"


def rollouts(text: str, *, rewards: tuple[float, ...] = (1.0, 0.0), num_groups: int = 2) -> list[Trajectory]:
    mean = sum(rewards) / len(rewards)
    return [
        Trajectory(
            f"task-{group}",
            [],
            reward,
            messages=[{"role": "user", "content": f"question {group}"}, {"role": "assistant", "content": f"{text} {attempt}"}],
            group=group,
            attempt=attempt,
            advantage=reward - mean,
            is_correct=reward == 1,
            stop_reason="length" if attempt else "stop",
            metrics={"tool_calls": 2.0},
        )
        for group in range(num_groups)
        for attempt, reward in enumerate(rewards)
    ]


@pytest.fixture
def sampled(make_run: Any, runs_dir: Path) -> TrainingRun:
    """A completed run with samples of steps 1, 2 and 5."""
    run: TrainingRun = make_run(status=Status.COMPLETED, step=5, num_steps=5)
    run.output_dir.mkdir(parents=True)
    for step in (1, 2, 5):
        RolloutsFile(32).on_rollout(LoopState("1", 9, run.output_dir), step, rollouts(f"step {step}"))
    return run


def page(client: Client, run: TrainingRun, query: str = "", **headers: str) -> str:
    answer = client.get(f"/runs/{run.pk}/rollouts/{query}", headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_step_shows_its_group_side_by_side_with_reward_and_advantage(alice_client: Client, sampled: TrainingRun):
    text = page(alice_client, sampled, "?step=2")
    assert "Samples of step 2" in text and "4 attempts at 2 tasks" in text
    assert text.count("question 0") == 1, "what all attempts share stands there once"
    assert "step 2 0" in text and "step 2 1" in text
    assert "reinforced" in text and "discouraged" in text and ">-0.5<" in text and ">0.5<" in text
    assert "cut off at the longest reply" in text and "tool_calls" in text


def test_j_and_k_walk_over_groups_and_over_the_ends_of_a_step(alice_client: Client, sampled: TrainingRun):
    base = f"/runs/{sampled.pk}/rollouts/"
    first, last = page(alice_client, sampled, "?step=2&group=1"), page(alice_client, sampled, "?step=2&group=2")
    assert f'href="{base}?step=1&amp;group=last" data-key="k"' in first
    assert f'href="{base}?step=2&amp;group=2" data-key="j"' in first
    assert f'href="{base}?step=2&amp;group=1" data-key="k"' in last
    assert f'href="{base}?step=5&amp;group=1" data-key="j"' in last
    assert "question 1" in page(alice_client, sampled, "?step=1&group=last")
    assert 'data-key="k"' not in page(alice_client, sampled, "?step=1")
    assert 'data-key="j"' not in page(alice_client, sampled, "?step=5&group=last")


@pytest.mark.parametrize(
    ("query", "step"),
    [("", 5), ("?step=4", 2), ("?step=0", 1), ("?step=999999999999999", 5), ("?step=x", 5), ("?step=-1", 5), ("?step=٣", 5)],
)
def test_any_step_finds_the_nearest_with_samples(alice_client: Client, sampled: TrainingRun, query: str, step: int):
    text = page(alice_client, sampled, query)
    assert f"Samples of step {step}" in text
    assert ("this is the nearest" in text) == (query in ("?step=4", "?step=0", "?step=999999999999999"))


@pytest.mark.parametrize("group", ["0", "99", "x", "-1", "9" * 30])
def test_a_group_that_does_not_exist_is_the_nearest_one(alice_client: Client, sampled: TrainingRun, group: str):
    assert "question" in page(alice_client, sampled, f"?step=1&group={group}")


def test_what_a_model_said_is_text_and_nothing_else(alice_client: Client, make_run: Any, alice_headers: dict[str, str]):
    run = make_run(status=Status.COMPLETED)
    run.output_dir.mkdir(parents=True)
    RolloutsFile(9).on_rollout(LoopState("1", 9, run.output_dir), 1, rollouts(NASTY))
    text = page(alice_client, run)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script>alert" not in text and "{{ 7 }}" in text
    found = alice_client.get(f"/api/v1/runs/{run.pk}/rollouts", headers=alice_headers).json()
    assert found["groups"][0]["rollouts"][0]["messages"][1]["content"].startswith("<script>")


def test_a_group_that_taught_nothing_says_why(alice_client: Client, make_run: Any):
    run = make_run(status=Status.COMPLETED)
    run.output_dir.mkdir(parents=True)
    RolloutsFile(9).on_rollout(LoopState("1", 9, run.output_dir), 1, rollouts("same", rewards=(1.0, 1.0)))
    assert "this group taught nothing" in page(alice_client, run)


def test_replies_that_nobody_rewards_are_shown_with_what_their_teacher_read(
    alice_client: Client, make_run: Any, alice_headers: dict[str, str]
):
    run = make_run(status=Status.COMPLETED, config=mock_config() | {"algorithm": {"kind": "sdft", "params": {}}})
    run.output_dir.mkdir(parents=True)
    replies = rollouts("said", rewards=(0.0,), num_groups=2)
    for reply in replies:
        reply.is_rewarded, reply.demonstration, reply.is_correct = False, f"shown {NASTY}", None
    RolloutsFile(9).on_rollout(LoopState("1", 9, run.output_dir), 3, replies)
    text = page(alice_client, run, "?step=3&group=2")
    assert "2 replies were sampled" in text and "question 1" in text and "said 0" in text
    assert "in place of the question" in text and "shown &lt;script&gt;" in text and "<script>alert" not in text
    assert not any(word in text for word in ("reward", "advantage", "no gradient", "taught nothing"))
    found = alice_client.get(f"/api/v1/runs/{run.pk}/rollouts", headers=alice_headers).json()["groups"][0]["rollouts"][0]
    assert (found["reward"], found["advantage"]) == (None, None) and found["demonstration"].startswith("shown")


def test_a_run_without_samples_says_what_would_be_here(alice_client: Client, make_run: Any):
    assert "only reinforcement learning and self-distillation sample" in page(alice_client, make_run(status=Status.COMPLETED))
    assert "appears here with the first step" in page(alice_client, make_run())


def test_the_tab_stands_only_where_there_are_or_will_be_samples(alice_client: Client, sampled: TrainingRun, make_run: Any):
    def has_tab(run: TrainingRun) -> bool:
        return 'id="tab-samples"' in alice_client.get(f"/runs/{run.pk}/").content.decode()

    learning = mock_config() | {"algorithm": {"kind": "rl", "params": {}}}
    gone = mock_config() | {"algorithm": {"kind": "no longer installed", "params": {}}}
    assert has_tab(sampled) and has_tab(make_run(config=learning))
    assert not has_tab(make_run()) and not has_tab(make_run(config=gone))
    assert not has_tab(make_run(config=learning, status=Status.COMPLETED))


def test_the_tab_asks_for_the_samples_alone(alice_client: Client, sampled: TrainingRun):
    text = page(alice_client, sampled, **{"HX-Request": "true"})
    assert "question 0" in text and "<html" not in text and "data-key" not in text


def test_rest_gives_the_same(client: Client, sampled: TrainingRun, alice_headers: dict[str, str]):
    answer = client.get(f"/api/v1/runs/{sampled.pk}/rollouts?step=3", headers=alice_headers)
    found = answer.json()
    assert (found["step"], found["previous"], found["following"], found["num_rollouts"]) == (2, 1, 5, 4)
    assert found["groups"][1]["rollouts"][1]["advantage"] == -0.5
    assert client.get(f"/api/v1/runs/{sampled.pk}/rollouts", headers=alice_headers).json()["step"] == 5
    assert client.get(f"/api/v1/runs/{sampled.pk}/rollouts?step=-1", headers=alice_headers).status_code == 422


def test_a_run_without_samples_is_not_found_over_rest(client: Client, run: TrainingRun, alice_headers: dict[str, str]):
    assert client.get(f"/api/v1/runs/{run.pk}/rollouts", headers=alice_headers).status_code == 404


def test_a_stranger_sees_none_of_it(mallory_client: Client, bob_client: Client, sampled: TrainingRun, mallory_headers: Any):
    for part in ("rollouts/", "rollouts/?step=1", "sanity"):
        assert mallory_client.get(f"/runs/{sampled.pk}/{part}").status_code == 404
        assert bob_client.get(f"/runs/{sampled.pk}/{part}").status_code == 200
    assert Client().get(f"/api/v1/runs/{sampled.pk}/rollouts", headers=mallory_headers).status_code == 404


GOOD = {
    "reward/mean": 0.5,
    "rollout/without_gradient": 0.1,
    "kl/sampler": 0.001,
    "rollout/entropy": 0.5,
    "train/ratio_max": 1.1,
    "rollout/completion_tokens": 20.0,
    "rollout/truncated": 0.0,
}


def reported(run: TrainingRun, *steps: dict[str, float]) -> dict[str, str]:
    """The warnings by key after these steps, each laid over GOOD."""
    for number, values in enumerate(steps, 1):
        metrics.append(run, number, GOOD | values)
    return {shown.signal.key: shown.warning for shown in sanity(run, metrics.keys(run))}


def test_a_run_that_goes_well_worries_nobody(run: TrainingRun):
    assert reported(run, *[{"reward/mean": 0.1 * step} for step in range(1, 10)]) == dict.fromkeys(GOOD, "")


@pytest.mark.parametrize(
    ("key", "start", "end", "words"),
    [
        ("reward/mean", 0.8, 0.3, "lost much"),
        ("rollout/without_gradient", 0.2, 0.9, "earn the same"),
        ("kl/sampler", 0.0, 0.05, "disagree"),
        ("rollout/entropy", 1.0, 0.05, "hardly varies"),
        ("train/ratio_max", 1.0, 50.0, "ten times"),
        ("rollout/completion_tokens", 10.0, 40.0, "three times as long"),
        ("rollout/completion_tokens", 40.0, 10.0, "less than a third"),
        ("rollout/truncated", 0.0, 0.5, "cut off"),
    ],
)
def test_each_signal_worries_when_it_is_off_and_only_it(run: TrainingRun, key: str, start: float, end: float, words: str):
    found = reported(run, *[{key: start}] * 5, *[{key: end}] * 5)
    assert words in found.pop(key)
    assert not any(found.values())


def test_groups_without_gradient_are_good_news_when_all_is_solved(run: TrainingRun):
    found = reported(run, *[{"reward/mean": 0.97, "rollout/without_gradient": 0.9}] * 6)
    assert "tasks are solved" in found["rollout/without_gradient"]


def test_one_odd_step_and_the_first_steps_alarm_nobody(run: TrainingRun):
    assert not any(reported(run, *[{"rollout/truncated": 1.0}] * 4).values())
    assert not any(reported(run, *[{}] * 9, {"rollout/truncated": 1.0}).values())


def test_values_that_are_no_numbers_are_left_out_of_the_curve(run: TrainingRun):
    found = reported(run, {"kl/sampler": float("nan")}, {"kl/sampler": float("inf")})
    assert set(found) == set(GOOD) - {"kl/sampler"}


def test_the_panel_stands_on_the_page_with_a_link_into_the_samples(alice_client: Client, sampled: TrainingRun):
    reported(sampled, *[{"rollout/truncated": 0.9}] * 6)
    text = alice_client.get(f"/runs/{sampled.pk}/").content.decode()
    assert "Is it going well?" in text and "Many replies are cut off" in text
    assert f'href="/runs/{sampled.pk}/rollouts/?step=6" data-first-step="1" data-last-step="6"' in text
    assert text.count("<polyline") == len(SIGNALS)


def test_a_run_without_rewards_has_no_panel(alice_client: Client, run: TrainingRun):
    metrics.append(run, 1, {"train/mean_nll": 1.0})
    assert "Is it going well?" not in alice_client.get(f"/runs/{run.pk}/").content.decode()
    assert sanity(run, ["train/mean_nll"]) == []


def test_the_file_that_the_page_reads_is_the_runs_own(sampled: TrainingRun):
    lines = (sampled.output_dir / ROLLOUTS_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 5]
