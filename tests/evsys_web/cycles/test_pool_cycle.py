"""A cycle that trains step by step in Fireworks' pool, has what it trained promoted and served, and goes on from it."""

from __future__ import annotations

import fireworks._base_client
import pytest
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.cycles.models import Status
from recipes import serving as serving_module
from tests.evsys_web.cycles.conftest import MakeCycle, drive
from tests.evsys_web.cycles.learner import Learner
from tests.fireworks_server import ACCOUNT
from tests.recipes.backends.fireworks.conftest import pool, root
from tests.recipes.backends.fireworks.pool import KEY, MODEL, Pool

__all__ = ["pool", "root"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


def test_what_the_pool_trained_becomes_a_model_that_the_cycle_has_served(
    pool: Pool,  # noqa: F811 - the fixture
    root: str,  # noqa: F811
    make_cycle: MakeCycle,
    alice: User,
    project: Project,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.ALLOW_PRIVATE_URLS = True
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    store_credential(user=alice, project=project, name="fireworks", secret=KEY)
    server = pool.control
    Learner(server)
    params = {"base_url": root, "credential": "fireworks", "tokenizer": "starter", "step_seconds": 120, "timeout_seconds": 60}
    cycle = drive(
        make_cycle(
            rounds=2,
            stop={"patience": None},
            model={"name": MODEL},
            backend={"kind": "fireworks", "params": params},
            training={"kind": "sft", "params": {"batch_size": 4, "max_steps": 2}},
            serving={"accept_billing": True},
        )
    )
    assert (cycle.status, cycle.error) == (Status.COMPLETED, "")
    first, second = [name for name in server.models if name.startswith(f"accounts/{ACCOUNT}/")]
    served = [each.body["baseModel"] for each in server.serving.deployments.values()]
    assert served == [MODEL, MODEL, first, first, second] and not server.serving.up
    assert [round_.checkpoint.sampler_uri for round_ in cycle.rounds.all()] == [f"fireworks://{first}", f"fireworks://{second}"]
    assert cycle.rounds.get(number=2).training_run.config["model"]["init_from_checkpoint"] == f"fireworks://{first}"
    assert [round_.judged.summary["avg"]["value"] for round_ in cycle.rounds.all()] == pytest.approx([2 / 3, 1])
