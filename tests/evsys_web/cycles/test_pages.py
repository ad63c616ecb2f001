"""The pages of cycles: the form that starts one, the list, and the cycle itself while it moves."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.cycles.estimates import estimate_cycle
from evsys_web.cycles.models import Cycle, Status
from evsys_web.evals.models import Benchmark
from recipes import prices
from recipes.cycle_config import CycleConfig
from recipes.prices import PriceList
from tests.evsys_web.cycles.conftest import MakeCycle, drive

pytestmark = pytest.mark.django_db


def typed(client: Client, address: str = "/cycles/new") -> dict[str, str]:
    """What a browser would send back of the form as it is shown."""
    page = client.get(address).content.decode()
    found = dict(re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', page))
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', page, flags=re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    return {name: value for name, value in found.items() if name != "csrfmiddlewaretoken"}


def test_without_two_benchmarks_the_form_says_what_is_missing(alice_client: Client) -> None:
    assert b"two benchmarks of your own" in alice_client.get("/cycles/new").content
    assert b"No cycles yet" in alice_client.get("/cycles/").content


def test_the_form_as_it_is_shown_starts_a_cycle_once(alice_client: Client, learn: Benchmark, judge: Benchmark) -> None:
    values = typed(alice_client) | {"learn": str(learn.pk), "judge": str(judge.pk)}
    assert values["curation-filter"] == "solved" and values["training-learning_rate"] == "0.0005"
    sent = [alice_client.post("/cycles/new", values) for _ in range(2)]
    cycle = Cycle.objects.get()
    assert [answer.status_code for answer in sent] == [302, 302] and sent[0]["Location"] == cycle.get_absolute_url()
    assert (cycle.name, cycle.learn, cycle.judge, cycle.num_rounds) == ("starter on Judge", learn, judge, 3)


def test_the_starter_benchmarks_come_once_and_are_chosen(alice_client: Client) -> None:
    first, second = (alice_client.post("/cycles/new/starter") for _ in range(2))
    assert first["Location"] == second["Location"] and Benchmark.objects.count() == 2
    values = typed(alice_client, first["Location"])
    learn, judge = (Benchmark.objects.get(pk=values[side]) for side in ("learn", "judge"))
    assert (learn.name, judge.name) == ("Starter sums to learn from", "Starter sums")
    assert alice_client.post("/cycles/new", values).status_code == 302  # they share no task


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"round-rounds": "0"}, "greater than or equal to 1"),
        ({"judge": "learn"}, "6 tasks stand on both sides"),
        ({"curation-filter": "avg >"}, "Character 6"),
        ({"model_name": "no/such/folder/"}, "no/such/folder"),
        ({"stop-target": "2"}, "less than or equal to 1"),
        ({"learn": ""}, "This field is required"),
        ({"training-learning_rate": "fast"}, "valid number"),
    ],
)
def test_a_mistake_stands_at_its_field_and_nothing_is_started(
    alice_client: Client, learn: Benchmark, judge: Benchmark, values: dict[str, str], words: str
) -> None:
    keys = {"learn": str(learn.pk), "judge": str(judge.pk)}
    sent = typed(alice_client) | keys | {name: keys.get(value, value) for name, value in values.items()}
    answer = alice_client.post("/cycles/new", sent)
    assert answer.status_code == 422 and words in answer.content.decode()
    assert re.search(rf"field-error.*?{re.escape(words)}", answer.content.decode(), flags=re.DOTALL)
    assert Cycle.objects.count() == 0


def test_benchmarks_of_two_projects_make_no_cycle(alice: User, alice_client: Client, learn: Benchmark, judge: Benchmark) -> None:
    Benchmark.objects.filter(pk=judge.pk).update(project=Project.objects.create_for(alice, name="Other"))
    answer = alice_client.post("/cycles/new", typed(alice_client) | {"learn": str(learn.pk), "judge": str(judge.pk)})
    assert answer.status_code == 422 and b"of the same project" in answer.content


def test_fragments_count_export_and_follow_the_algorithm(alice_client: Client, learn: Benchmark, judge: Benchmark) -> None:
    values = typed(alice_client) | {"learn": str(learn.pk), "judge": str(judge.pk), "round-attempts": "5"}
    size = alice_client.post("/cycles/new/size", values).content.decode()
    assert "at most 210" in size  # 3 rounds of 6 × 5 and 6 × 5, and the baseline
    exported = alice_client.post("/cycles/new/export", values).content.decode()
    assert "attempts: 5" in exported and "/api/v1/cycles" in exported
    other = alice_client.post("/cycles/new/settings", values | {"training": "mock_sft", "round-rounds": "7"}).content.decode()
    assert "training-step_seconds" in other and 'value="7"' in other


def test_the_plan_says_what_attempts_and_training_cost_where_that_is_known(
    alice: User, learn: Benchmark, judge: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_million = {"train": 4.0, "prefill": 1.0, "sample": 2.0}
    rate = {"backend": "tinker", "algorithms": ["*"], "models": ["m"], "per_million": per_million}
    listed = PriceList.model_validate({"billed": ["tinker"], "prices": [rate | {"as_of": "2026-11-01", "source": "a test"}]})
    monkeypatch.setattr(prices, "price_list", lambda: listed)
    values: dict[str, Any] = {
        "learn": {"benchmark": str(learn.pk)},
        "judge": {"benchmark": str(judge.pk)},
        "rounds": 2,
        "attempts": 4,
    }
    values |= {"backend": {"kind": "tinker"}, "training": {"kind": "sft", "params": {"lr_warmup_steps": 3}}}
    found = estimate_cycle(CycleConfig.from_values(values | {"model": {"name": "m"}}), learn, judge, alice)
    assert found.num_attempts == 2 * 6 * 4 + 3 * 6 * 4 and found.sampled_tokens.low == found.num_attempts
    assert found.sampling is not None and found.training is not None and found.seconds is None
    assert found.sampling.high > 2 * found.sampled_tokens.high / 1e6 and found.training.low == 0 < found.training.high
    assert "lr_warmup_steps has no effect under the schedule constant." in found.notes
    unknown = estimate_cycle(CycleConfig.from_values(values | {"model": {"name": "other"}}), learn, judge, alice)
    assert unknown.sampling is None and unknown.training is None
    assert "The price is not known" in " ".join(unknown.notes) and "for the training of a round" in " ".join(unknown.notes)


def test_a_clone_is_the_same_form_filled_in(alice_client: Client, make_cycle: MakeCycle) -> None:
    cycle = make_cycle(stop={"target": 0.75})
    values = typed(alice_client, f"/cycles/new?clone={cycle.pk}")
    assert (values["name"], values["round-attempts"], values["stop-target"]) == ("bytes 2", "3", "0.75")
    assert (values["backend"], values["training-max_steps"], values["learn"]) == ("mock", "4", str(cycle.learn_id))
    alice_client.post("/cycles/new", values)
    clone = Cycle.objects.get(cloned_from=cycle)
    same = ("model", "learn", "judge", "rounds", "attempts", "sampling", "curation", "stop")
    assert {part: clone.config[part] for part in same} == {part: cycle.config[part] for part in same}


@pytest.mark.django_db(transaction=True)
def test_the_page_follows_a_cycle_to_its_answer(alice_client: Client, cycle: Cycle) -> None:
    before = alice_client.get(f"/cycles/{cycle.pk}/").content.decode()
    assert "Waits for a free worker" in before and "every 1s" in before and "No round has been judged yet" in before
    drive(cycle)
    after = alice_client.get(cycle.get_absolute_url()).content.decode()
    assert "every 1s" not in after and "after round 1" in after and "All rounds done" in after
    round_ = cycle.rounds.get()
    for part in (cycle.baseline, round_.eval_run, round_.curation, round_.training_run, round_.judged):
        assert f'href="{part.get_absolute_url()}"' in after
    listed = alice_client.get("/cycles/").content.decode()
    assert "bytes" in listed and "after round 1" in listed


def test_its_name_is_text_and_no_markup(alice_client: Client, make_cycle: MakeCycle) -> None:
    cycle = make_cycle(name="<script>alert(1)</script>")
    for address in ("/cycles/", f"/cycles/{cycle.pk}/", "/", f"/cycles/new?clone={cycle.pk}"):
        assert b"<script>alert" not in alice_client.get(address).content


def test_buttons_stop_resume_and_delete(alice_client: Client, bob_client: Client, cycle: Cycle) -> None:
    alice_client.post(f"/cycles/{cycle.pk}/stop")
    cycle.refresh_from_db()
    assert cycle.status == Status.CANCELLED
    answer = bob_client.post(f"/cycles/{cycle.pk}/stop", follow=True)
    assert "is cancelled and cannot be stopped" in answer.content.decode()
    bob_client.post(f"/cycles/{cycle.pk}/resume")
    cycle.refresh_from_db()
    assert cycle.status == Status.QUEUED
    refused = bob_client.post(f"/cycles/{cycle.pk}/delete", follow=True).content.decode()
    assert "Only whoever made this, or an admin of the project" in refused
    gone: Any = alice_client.post(f"/cycles/{cycle.pk}/delete")
    assert gone["Location"] == "/cycles/" and not Cycle.objects.exists()


def test_home_and_search_find_cycles_and_show_a_stranger_none(
    alice_client: Client, mallory_client: Client, make_cycle: MakeCycle
) -> None:
    first = make_cycle(name="oldest but under way")
    for number in range(4):
        assert make_cycle(name=f"ended {number}").request_stop()
    home = alice_client.get("/").content.decode()
    assert home.index("oldest but under way") < home.index("ended 3") and "ended 0" not in home
    assert f'href="{first.get_absolute_url()}" role="option"' in alice_client.get("/search?q=under way").content.decode()
    for address in ("/", "/search?q=ended", "/cycles/"):
        assert "ended 3" not in mallory_client.get(address).content.decode()
