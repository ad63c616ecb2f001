"""What a cycle bills was agreed to by whoever started it: for all its rounds, here, and for no cycle that is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.cycles.actions import launch_cycle, resume_cycle, stop_cycle
from evsys_web.cycles.estimates import estimate_cycle
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.cycles.models import Cycle, CycleEvent, Status, visible_cycle
from evsys_web.evals.models import Benchmark
from evsys_web.runs.actions import RunRefused
from recipes.cycle_config import CycleConfig
from recipes.errors import ConfigError
from tests.evsys_web.cycles.conftest import MakeCycle, cycle_values
from tests.evsys_web.cycles.test_pages import typed
from tests.fireworks_server import KEY, MODEL

pytestmark = pytest.mark.django_db


def dedicated(**params: Any) -> dict[str, Any]:
    """A cycle at Fireworks itself, which nothing here asks."""
    chosen = {"credential": "fireworks", "tokenizer": "starter", "trainer": "dedicated", "accept_billing": True, **params}
    return {
        "model": {"name": MODEL},
        "backend": {"kind": "fireworks", "params": chosen},
        "training": {"kind": "sft", "params": {"batch_size": 4}},
        "serving": {"accept_billing": True},
    }


@pytest.fixture
def stopped(make_cycle: MakeCycle, alice: User, project: Project) -> Cycle:
    """On dedicated trainers, before anything was made."""
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    return stop_cycle(user=alice, cycle=make_cycle(**dedicated()))


def exported(cycle: Cycle, user: User, path: Path) -> Path:
    path.write_bytes(b"".join(export_cycle(visible_cycle(user, cycle.pk))))
    return path


def test_it_goes_elsewhere_without_its_consents_and_is_not_resumed_there(
    stopped: Cycle, alice: User, alice_client: Client, project: Project, tmp_path: Path
) -> None:
    twin = import_cycle(user=alice, project=project, path=exported(stopped, alice, tmp_path / "cycle.zip"))
    assert "accept_billing" not in twin.config["backend"]["params"] and not twin.config["serving"]["accept_billing"]
    Cycle.objects.filter(pk=twin.pk).update(error="Baseline eval: it was stopped elsewhere.")
    twin.refresh_from_db()
    num_events = CycleEvent.objects.count()
    for is_served in (False, True):  # without either consent, and without that to the trainer
        twin.config["serving"] = {"accept_billing": is_served}
        twin.save()
        with pytest.raises(RunRefused, match=r"Clone the cycle to agree anew\.$"):
            resume_cycle(user=alice, cycle=twin)
    twin.refresh_from_db()
    assert (twin.status, twin.error) == (Status.CANCELLED, "Baseline eval: it was stopped elsewhere.")
    page = alice_client.post(f"{twin.get_absolute_url()}resume", follow=True).content.decode()
    assert "Clone the cycle to agree anew." in page and CycleEvent.objects.count() == num_events
    again = import_cycle(user=alice, project=project, path=exported(twin, alice, tmp_path / "again.zip"))
    assert "accept_billing" not in again.config["backend"]["params"]
    assert resume_cycle(user=alice, cycle=stopped).status == Status.QUEUED


def test_its_clone_leaves_both_boxes_to_be_ticked(stopped: Cycle, alice_client: Client) -> None:
    values = typed(alice_client, f"/cycles/new?clone={stopped.pk}")
    assert (values["backend-trainer"], values["backend-tokenizer"]) == ("dedicated", "starter")
    refused = alice_client.post("/cycles/new", values | {"serving-accept_billing": "on"})
    assert refused.status_code == 422 and "1 at most: 12 hours in all" in refused.content.decode()
    assert Cycle.objects.count() == 1


def test_a_trainer_for_each_round_is_agreed_to_and_estimated(learn: Benchmark, judge: Benchmark, alice: User) -> None:
    with pytest.raises(ConfigError, match="one for each of its rounds, 3 at most: 6 hours in all") as refused:
        CycleConfig.from_values(cycle_values(**dedicated(accept_billing=False, longest_hours=2)) | {"rounds": 3})
    assert refused.value.path == ("backend", "params", "accept_billing")
    config = CycleConfig.from_values(cycle_values(**dedicated(longest_hours=2)) | {"rounds": 3})
    notes = " ".join(estimate_cycle(config, learn, judge, alice).notes)
    assert "for 2 hours at most" in notes and "3 at most: 6 hours in all" in notes and "NVIDIA_H200_141GB" in notes
    pool = CycleConfig.from_values(cycle_values(**dedicated(trainer="serverless")))
    assert "hours in all" not in " ".join(estimate_cycle(pool, learn, judge, alice).notes)


@pytest.mark.usefixtures("learn", "judge")
def test_a_key_that_is_not_stored_is_missed_before_the_queue(alice: User, project: Project) -> None:
    with pytest.raises(ConfigError, match="fireworks") as refused:
        launch_cycle(user=alice, project=project, config=CycleConfig.from_values(cycle_values(**dedicated())))
    assert refused.value.path == ("backend", "params", "credential") and not Cycle.objects.exists()
