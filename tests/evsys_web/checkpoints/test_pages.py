"""The list of checkpoints with their scores, and the page of one."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import Project, User
from evsys_web.evals.models import Benchmark
from evsys_web.runs.models import Checkpoint
from tests.conftest import as_read
from tests.evsys_web.checkpoints.conftest import MakeCheckpoint, evaluated
from tests.evsys_web.runs.conftest import MakeRun


def names(client: Client, **query: object) -> list[str]:
    """In the order of the table."""
    response = client.get(reverse("checkpoints:list"), query)
    assert response.status_code == 200
    return [each.checkpoint.name for each in response.context["listed"]]


def test_the_list_sorts_by_every_column_with_the_unknown_last(
    alice_client: Client, project: Project, make_checkpoint: MakeCheckpoint
) -> None:
    first = make_checkpoint("a", 10, metrics={"train/mean_nll": 0.9})
    second = make_checkpoint("b", 20, metrics={"train/mean_nll": "NaN"})
    make_checkpoint("c", 15, metrics={"train/mean_nll": 0.1})
    evaluated(first, project, 0.25)
    evaluated(second, project, 0.75)
    assert names(alice_client) == ["c", "b", "a"]
    assert names(alice_client, sort="step") == ["a", "c", "b"]
    assert names(alice_client, sort="loss") == ["c", "a", "b"]
    assert names(alice_client, sort="-right") == ["b", "a", "c"]
    assert names(alice_client, sort="right; drop table") == ["c", "b", "a"]
    assert names(alice_client, q="adding") == ["c", "b", "a"]
    assert names(alice_client, q="no such words") == []


def test_scores_are_compared_on_one_benchmark_when_one_is_chosen(
    alice_client: Client, project: Project, make_checkpoint: MakeCheckpoint
) -> None:
    easy, hard = (Benchmark.objects.create(project=project, name=name) for name in ("easy", "hard"))
    first, second = make_checkpoint("a", 1), make_checkpoint("b", 2)
    evaluated(first, project, 0.9, benchmark=easy)
    evaluated(first, project, 0.1, benchmark=hard)
    evaluated(second, project, 0.5, benchmark=hard)
    assert names(alice_client, sort="-right", benchmark=hard.pk) == ["b", "a"]
    page = as_read(alice_client.get(reverse("checkpoints:list"), {"benchmark": easy.pk}))
    assert "90.0 %" in page and "80.0 – 100.0 %" in page and "50.0 %" not in page


def test_an_empty_list_says_what_will_be_here(alice_client: Client) -> None:
    page = alice_client.get(reverse("checkpoints:list")).content.decode()
    assert "No checkpoints yet" in page and reverse("runs:new") in page


def test_the_page_names_run_metrics_files_and_evals_with_their_interval(
    alice_client: Client, project: Project, checkpoint: Checkpoint
) -> None:
    evaluated(checkpoint, project, 0.625, name="on <b>sums</b>")
    page = as_read(alice_client.get(checkpoint.get_absolute_url()))
    for words in ("adding up", "train/mean_nll", "adapter_model.safetensors", "62.5 %", "52.5 – 72.5 %"):
        assert words in page
    assert "on &lt;b&gt;sums&lt;/b&gt;" in page
    for name in ("evals:new", "runs:new"):
        assert f"{reverse(name)}?checkpoint={checkpoint.pk}" in page


def test_evals_of_a_project_that_one_cannot_see_are_not_told(alice_client: Client, mallory: User, checkpoint: Checkpoint) -> None:
    evaluated(checkpoint, mallory.default_project(), 0.99, name="secret eval")
    for url in (checkpoint.get_absolute_url(), reverse("checkpoints:delete", args=[checkpoint.pk]), reverse("checkpoints:list")):
        page = as_read(alice_client.get(url))
        assert "secret eval" not in page and "99.0 %" not in page


def test_runs_that_went_on_from_it_are_named(alice_client: Client, checkpoint: Checkpoint, make_run: MakeRun) -> None:
    config = {"model": {"name": "starter", "init_from_checkpoint": checkpoint.sampler_uri}}
    make_run(name="the next one", config=config)
    page = alice_client.get(checkpoint.get_absolute_url()).content.decode()
    assert "1 run made from it" in page and "the next one" in page


def test_one_file_or_all_can_be_taken_home_and_nothing_else(alice_client: Client, checkpoint: Checkpoint) -> None:
    url = reverse("checkpoints:download", args=[checkpoint.pk])
    one = alice_client.get(url, {"file": "adapter_model.safetensors"})
    assert one["Content-Length"] == "7" and "attachment" in one["Content-Disposition"]
    assert alice_client.get(url)["Content-Type"] == "application/zip"
    for file in ("../state/state.safetensors", "/etc/passwd", "no-such-file"):
        assert alice_client.get(url, {"file": file}).status_code == 404


def test_weights_at_a_provider_are_told_apart(alice_client: Client, make_checkpoint: MakeCheckpoint) -> None:
    hosted = make_checkpoint(state_uri="tinker://a/state", sampler_uri="tinker://a/weights")
    assert "lie with the provider" in alice_client.get(hosted.get_absolute_url()).content.decode()
    answer = alice_client.get(reverse("checkpoints:download", args=[hosted.pk]), follow=True)
    assert "not on this server" in answer.content.decode()


@pytest.mark.parametrize("name", ["detail", "download", "delete"])
def test_a_stranger_finds_no_checkpoint(mallory_client: Client, client: Client, checkpoint: Checkpoint, name: str) -> None:
    url = reverse(f"checkpoints:{name}", args=[checkpoint.pk])
    assert mallory_client.get(url).status_code == 404
    assert client.get(url).status_code == 302
    assert names(mallory_client) == []
