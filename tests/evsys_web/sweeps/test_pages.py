"""The pages of sweeps: from a run's form to the table and back."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import TrainingRun
from evsys_web.sweeps.actions import launch_sweep
from evsys_web.sweeps.estimates import estimate_sweep
from evsys_web.sweeps.models import Sweep
from recipes.sweep_config import SweepConfig
from tests.evsys_web.sweeps.conftest import RATE, MakeSweep, completed, sweep_values
from tests.fireworks_server import MODEL

pytestmark = pytest.mark.django_db


def typed(client: Client, address: str = "/sweeps/new", **values: str) -> dict[str, str]:
    """What a browser would send back of the form as it is shown, with `values` typed over."""
    page = client.get(address).content.decode()
    form = page[page.index('id="sweep-form"') :]
    found = dict(re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', form))
    for name, options in re.findall(r'<select[^>]*name="([^"]+)".*?>(.*?)</select>', form, flags=re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)"[^>]* selected', options)
        found[name] = chosen[1] if chosen else ""
    return {name: unescape(value) for name, value in found.items()} | values


def of_mock(client: Client, version: DatasetVersion, **values: str) -> dict[str, str]:
    """The settings of a mock run, as the run's own form would send them here."""
    return typed(client, algorithm="mock_sft", backend="mock", **{"algorithm-max_steps": "3"}) | values


def test_without_rows_the_page_says_what_is_missing(alice_client: Client) -> None:
    assert b"First some rows" in alice_client.get("/sweeps/new").content
    assert b"No sweeps yet" in alice_client.get("/sweeps/").content


def test_the_settings_of_a_run_become_a_sweep_once(alice_client: Client, version: DatasetVersion) -> None:
    values = of_mock(alice_client, version, axis_1=RATE, values_1="1e-2, 0.1", seeds="0, 1")
    offered = alice_client.post("/sweeps/new", values).content.decode()
    assert f'<option value="{RATE}"' in offered and "algorithm.params.seed" not in offered
    assert not TrainingRun.objects.exists()
    plan = alice_client.post("/sweeps/new/plan", values).content.decode()
    assert "2 combinations × 2 seeds" in plan
    sent = [alice_client.post("/sweeps/new/launch", values) for _ in range(2)]
    sweep = Sweep.objects.get()
    assert [answer["Location"] for answer in sent] == [sweep.get_absolute_url()] * 2
    assert sweep.axes == {RATE: [0.01, 0.1]} and sweep.seeds == [0, 1]
    assert TrainingRun.objects.count() == 4
    assert {run.config["algorithm"]["params"]["max_steps"] for run in TrainingRun.objects.all()} == {3}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"axis_1": RATE, "values_1": "0.1, 7"}, "value 7"),
        ({"axis_1": RATE, "values_1": "fast"}, "value fast"),
        ({"axis_1": RATE, "values_1": ""}, "Write the values to try"),
        ({"axis_1": "", "values_1": "1"}, "Choose the setting"),
        ({"axis_1": "model.nam", "values_1": "x"}, "is no setting of this algorithm and backend"),
        ({"axis_1": RATE, "values_1": "1", "axis_2": RATE, "values_2": "0.5"}, "in another row already"),
        ({"seeds": "one"}, "valid integer"),
        ({"seeds": ""}, "at least one axis, or seeds"),
        ({"seeds": ",".join(map(str, range(201)))}, "201 runs are more than 200"),
        ({"algorithm-learning_rate": "-1"}, "Learning rate"),
    ],
)
def test_what_is_wrong_is_said_at_its_place_and_nothing_is_made(
    alice_client: Client, version: DatasetVersion, rows: dict[str, str], sentence: str
) -> None:
    page = alice_client.post("/sweeps/new/launch", of_mock(alice_client, version) | rows).content.decode()
    assert "Nothing was started" in page and sentence in unescape(page)
    for name, value in rows.items():
        assert not value or name == "axis_1" or f'value="{value}"' in page, f"{name} is lost"
    assert not TrainingRun.objects.exists() and not Sweep.objects.exists()


def test_the_table_shows_mean_and_spread_and_sorts(alice_client: Client, sweep: Sweep) -> None:
    for member in sweep.members.all():
        completed(member.run, train__mean_nll=1.0 + member.combination + 0.1 * (member.seed or 0))
    page = alice_client.get(sweep.get_absolute_url()).content.decode()
    assert "1.10 ± 0.10" in page and "2.10 ± 0.10" in page
    assert page.index("1.10 ± 0.10") < page.index("2.10 ± 0.10")
    turned = alice_client.get(f"{sweep.get_absolute_url()}?sort=-train/mean_nll", headers={"HX-Request": "true"}).content.decode()
    assert turned.index("2.10 ± 0.10") < turned.index("1.10 ± 0.10") and "<html" not in turned
    table = b"".join(alice_client.get(f"{sweep.get_absolute_url()}table.csv")).decode()
    assert table.startswith("algorithm.params.learning_rate,completed") and ",1.1,0.1,3" in table


def test_from_the_run_to_its_sweep(alice_client: Client, mallory_client: Client, sweep: Sweep) -> None:
    run = sweep.members.all()[0].run
    assert f"/sweeps/of-run/{run.pk}" in alice_client.get(run.get_absolute_url()).content.decode()
    assert sweep.get_absolute_url() in alice_client.get(f"/sweeps/of-run/{run.pk}").content.decode()
    assert mallory_client.get(f"/sweeps/of-run/{run.pk}").status_code == 404


def test_buttons_stop_resume_and_delete(alice_client: Client, sweep: Sweep) -> None:
    address = sweep.get_absolute_url()
    assert b"still at work" in alice_client.post(f"{address}delete", follow=True).content
    assert b"is cancelled" in alice_client.post(f"{address}stop", follow=True).content
    assert b"queued again" in alice_client.post(f"{address}resume", follow=True).content
    alice_client.post(f"{address}stop")
    assert b"None of its runs waits" in alice_client.post(f"{address}stop", follow=True).content
    assert alice_client.post(f"{address}delete")["Location"] == "/sweeps/"
    assert not Sweep.objects.exists() and not TrainingRun.objects.exists()


def test_yaml_goes_out_and_comes_in_again(alice_client: Client, sweep: Sweep) -> None:
    text = alice_client.get(f"{sweep.get_absolute_url()}yaml").content.decode()
    page = alice_client.post("/sweeps/new/import", {"yaml": text}).content.decode()
    assert 'value="0.01, 0.1"' in page and 'value="0, 1, 2"' in page and "Taken over" in page
    wrong = alice_client.post("/sweeps/new/import", {"yaml": text.replace("0.01", "70")}).content.decode()
    assert "axis algorithm.params.learning_rate, value 70" in wrong
    run_page = alice_client.post("/runs/new/import", {"yaml": text}).content.decode()
    assert "a matrix makes a sweep" in run_page


def test_a_clone_begins_with_its_axes(alice_client: Client, mallory_client: Client, sweep: Sweep) -> None:
    values = typed(alice_client, f"/sweeps/new?from={sweep.pk}")
    assert (values["axis_1"], values["values_1"], values["seeds"]) == (RATE, "0.01, 0.1", "0, 1, 2")
    assert values["algorithm"] == "mock_sft" and values["algorithm-max_steps"] == "3"
    assert "0.01, 0.1" not in mallory_client.get(f"/sweeps/new?from={sweep.pk}").content.decode()


def test_what_a_sweep_pays_by_the_hour_is_told_in_all_and_agreed_to_anew(
    alice: User, alice_client: Client, project: Project, version: DatasetVersion
) -> None:
    store_credential(user=alice, project=project, name="fireworks", secret="k" * 20)
    chosen = {"credential": "fireworks", "tokenizer": "starter", "trainer": "dedicated", "accept_billing": True}
    values = {
        **sweep_values({RATE: [0.001, 0.01]}, [0, 1]),
        "model": {"name": MODEL},
        "algorithm": {"kind": "sft", "params": {"batch_size": 4}},
        "backend": {"kind": "fireworks", "params": chosen},
    }
    config = SweepConfig.from_values(values)
    sweep = launch_sweep(user=alice, project=project, config=config, dataset_version=version)
    assert "4 in all: 48 hours at most" in " ".join(estimate_sweep(config, version, alice).notes)
    clone = typed(alice_client, f"/sweeps/new?from={sweep.pk}")
    text = alice_client.get(f"{sweep.get_absolute_url()}yaml").content.decode()
    assert "accept_billing: true" in text
    page = alice_client.post("/sweeps/new/import", {"yaml": text}).content.decode()
    assert "Its consent to pay is not taken over" in page
    carried = dict(re.findall(r'name="(backend-(?:trainer|accept_billing))" value="([^"]*)"', page))
    assert carried == {"backend-trainer": "dedicated", "backend-accept_billing": clone["backend-accept_billing"]}
    refused = alice_client.post("/sweeps/new/launch", clone).content.decode()
    assert "accept_billing: true" in refused and Sweep.objects.count() == 1
    agreed = alice_client.post("/sweeps/new/launch", clone | {"backend-accept_billing": "on"})
    assert agreed.status_code == 302 and Sweep.objects.count() == 2


def test_names_of_models_are_text(alice_client: Client, make_sweep: MakeSweep) -> None:
    sweep = make_sweep({"model.name": ["starter"]}, [0])
    Sweep.objects.update(config=sweep_values({"model.name": ["<script>alert(1)</script>"]}, [0]))
    page = alice_client.get(sweep.get_absolute_url()).content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_the_list_costs_as_many_queries_for_many_as_for_few(
    alice_client: Client, make_sweep: MakeSweep, django_assert_max_num_queries: object
) -> None:
    for _ in range(4):
        make_sweep(seeds=[0, 1])
    with django_assert_max_num_queries(8):  # type: ignore[operator]
        page = alice_client.get("/sweeps/").content.decode()
    assert page.count("4 queued") == 4
