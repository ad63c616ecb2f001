"""Deleting a checkpoint: what is asked before, what stops it, and what is gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import Project
from evsys_web.checkpoints.actions import delete_checkpoint
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.models import EvalRun
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from recipes.checkpoints import MANIFEST_FILE, Manifest
from recipes.resources import MODEL, Resource, ResourceLog
from recipes.types import Checkpoint as Saved
from tests.evsys_web.checkpoints.conftest import MakeCheckpoint, evaluated
from tests.evsys_web.runs.conftest import MakeRun


def left(run: TrainingRun) -> list[str]:
    """Folders below checkpoints/ that hold a file."""
    root = run.output_dir / "checkpoints"
    return sorted({path.parent.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()})


def deletable(client: Client, checkpoint: Checkpoint) -> tuple[bool, str]:
    page = client.get(reverse("checkpoints:delete", args=[checkpoint.pk])).content.decode()
    return "Delete checkpoint" in page, page


@pytest.mark.django_db(transaction=True)
def test_its_files_and_its_line_in_the_manifest_go_and_nothing_else(
    alice_client: Client, make_checkpoint: MakeCheckpoint, ended_run: TrainingRun
) -> None:
    early, final = make_checkpoint("step-10", 10), make_checkpoint("final", 30)
    answer = alice_client.post(reverse("checkpoints:delete", args=[final.pk]))
    assert answer.status_code == 302
    assert [saved.name for saved in Manifest(ended_run.output_dir).read()] == ["step-10"]
    assert left(ended_run) == ["step-10/sampler", "step-10/state"]
    assert list(Checkpoint.objects.all()) == [early]


def test_a_model_elsewhere_that_only_it_named_is_nobodys_to_remove(
    alice_client: Client, make_checkpoint: MakeCheckpoint, ended_run: TrainingRun
) -> None:
    checkpoint, log = make_checkpoint("early", 10), ResourceLog(ended_run.output_dir)
    named, unnamed = Resource(MODEL, "evsys-named", "acme"), Resource(MODEL, "evsys-half-made", "acme")
    log.plan(named)
    log.plan(unnamed)
    Manifest(ended_run.output_dir).append(Saved("final", 30, None, f"fireworks://accounts/acme/models/{named.name}"))
    final = Checkpoint.objects.create(
        run=ended_run, name="final", step=30, sampler_uri="fireworks://accounts/acme/models/evsys-named"
    )
    assert alice_client.post(reverse("checkpoints:delete", args=[final.pk])).status_code == 302
    assert list(Checkpoint.objects.all()) == [checkpoint]
    assert log.left() == [unnamed]


def test_what_was_made_from_it_is_named_first_and_stays(
    alice_client: Client, project: Project, checkpoint: Checkpoint, make_run: MakeRun
) -> None:
    made = evaluated(checkpoint, project, 0.5)
    config = {"model": {"name": "starter", "init_from_checkpoint": checkpoint.sampler_uri}}
    child = make_run(name="the next one", config=config, status=Status.COMPLETED)
    can, page = deletable(alice_client, checkpoint)
    assert can and "1 eval run made from it" in page and "how good" in page and "the next one" in page
    alice_client.post(reverse("checkpoints:delete", args=[checkpoint.pk]))
    assert EvalRun.objects.get(pk=made.pk).checkpoint is None
    assert TrainingRun.objects.filter(pk=child.pk).exists()


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.STOPPING])
def test_nothing_live_loses_its_weights(
    alice_client: Client, project: Project, checkpoint: Checkpoint, make_run: MakeRun, status: Status
) -> None:
    url = reverse("checkpoints:delete", args=[checkpoint.pk])
    config = {"model": {"name": "starter", "init_from_checkpoint": checkpoint.sampler_uri}}
    for live in (make_run(config=config, status=status), evaluated(checkpoint, project, 0.5, status=status)):
        can, page = deletable(alice_client, checkpoint)
        assert not can and f" {live.pk} is {status}" in page
        assert f" {live.pk} is {status}" in alice_client.post(url, follow=True).content.decode()
        live.delete()
    TrainingRun.objects.filter(pk=checkpoint.run_id).update(status=status)
    assert "Its run is" in alice_client.post(url, follow=True).content.decode()
    assert left(checkpoint.run) == ["final/sampler", "final/state"]
    TrainingRun.objects.filter(pk=checkpoint.run_id).update(status=Status.COMPLETED)
    assert deletable(alice_client, checkpoint)[0]


def test_a_cycle_that_goes_on_keeps_what_its_rounds_left(alice_client: Client, project: Project, checkpoint: Checkpoint) -> None:
    ended = Cycle.objects.create(project=project, name="long ago", status=Status.COMPLETED)
    CycleRound.objects.create(cycle=ended, number=1, checkpoint=checkpoint)
    can, page = deletable(alice_client, checkpoint)
    assert can and "1 cycle made from it" in page and "long ago" in page
    for values in ({"checkpoint": checkpoint}, {"training_run": checkpoint.run}):
        live = Cycle.objects.create(project=project, name="goes on", status=Status.RUNNING)
        CycleRound.objects.create(cycle=live, number=1, **values)
        can, page = deletable(alice_client, checkpoint)
        assert not can and f"The cycle {live.pk} is running and uses it" in page
        live.delete()


def test_full_weights_stay_while_adapters_stand_on_them(
    alice_client: Client, checkpoint: Checkpoint, make_checkpoint: MakeCheckpoint, make_run: MakeRun
) -> None:
    config = {"model": {"name": "starter", "init_from_checkpoint": checkpoint.sampler_uri}}
    child = make_run(config=config, status=Status.COMPLETED)
    of_child = make_checkpoint(run=child)
    assert deletable(alice_client, checkpoint)[0]
    config_file = Path(of_child.sampler_uri) / "adapter_config.json"
    config_file.write_text(json.dumps({"base_model_name_or_path": checkpoint.sampler_uri}))
    can, page = deletable(alice_client, checkpoint)
    assert not can and f"What run {child.pk} saved are adapters on top of these weights" in page


def test_the_newest_state_says_what_a_resume_loses(
    alice_client: Client, make_checkpoint: MakeCheckpoint, ended_run: TrainingRun
) -> None:
    early, final = make_checkpoint("step-10", 10), make_checkpoint("final", 30)
    TrainingRun.objects.filter(pk=ended_run.pk).update(status=Status.CANCELLED)
    assert "would go on from step 10 instead" in deletable(alice_client, final)[1]
    assert "Resuming the run" not in deletable(alice_client, early)[1]
    final.delete()
    assert "would begin again at the first step" in deletable(alice_client, early)[1]


@pytest.mark.django_db(transaction=True)
def test_no_folder_outside_the_runs_own_is_touched(
    alice_client: Client, make_checkpoint: MakeCheckpoint, ended_run: TrainingRun, tmp_path: Path
) -> None:
    other = tmp_path / "others"
    other.mkdir()
    (other / "precious").write_text("x")
    uris = [str(other), "../../others", str(ended_run.output_dir), "tinker://a/weights"]
    for number, uri in enumerate(uris):
        checkpoint = make_checkpoint(f"step-{number}", number, sampler_uri=uri, state_uri=uri)
        alice_client.post(reverse("checkpoints:delete", args=[checkpoint.pk]))
    assert not Checkpoint.objects.exists()
    assert (other / "precious").read_text() == "x"
    assert len(left(ended_run)) == 2 * len(uris)


@pytest.mark.django_db(transaction=True)
def test_a_folder_that_two_checkpoints_name_stays(alice_client: Client, make_checkpoint: MakeCheckpoint) -> None:
    first = make_checkpoint("step-30", 30)
    second = make_checkpoint("final", 30, sampler_uri=first.sampler_uri)
    alice_client.post(reverse("checkpoints:delete", args=[first.pk]))
    assert (Path(second.sampler_uri) / "adapter_model.safetensors").exists()


def test_a_manifest_that_cannot_be_read_stops_it(alice_client: Client, checkpoint: Checkpoint) -> None:
    (checkpoint.run.output_dir / MANIFEST_FILE).write_text("half a li")
    with pytest.raises(RunRefused, match="is no checkpoint"):
        delete_checkpoint(user=checkpoint.run.created_by, checkpoint=checkpoint)  # type: ignore[arg-type]
    assert left(checkpoint.run) == ["final/sampler", "final/state"]


def test_a_member_deletes_only_what_is_hers_and_a_stranger_nothing(
    bob_client: Client, mallory_client: Client, checkpoint: Checkpoint
) -> None:
    url = reverse("checkpoints:delete", args=[checkpoint.pk])
    assert "Only whoever made this" in bob_client.post(url, follow=True).content.decode()
    assert mallory_client.post(url).status_code == 404
    assert Checkpoint.objects.filter(pk=checkpoint.pk).exists()
