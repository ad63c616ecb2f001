"""A cycle as one page: the answer, what it takes to see one, the steps as they happen, rounds side by side, the lineage."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import User
from evsys_web.cycles.advance import advance
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.cycles.picture import COLUMNS, pictures_of
from evsys_web.cycles.side_by_side import table_of
from evsys_web.cycles.steps import steps_of
from evsys_web.cycles.telling import Teller
from tests.evsys_web.cycles.conftest import MakeCycle, do_part, drive

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def done(make_cycle: MakeCycle) -> Cycle:
    """Two rounds, completed."""
    return drive(make_cycle(rounds=2, stop={"patience": None}))


def rounds_of(cycle: Cycle) -> list[CycleRound]:
    return list(Cycle.objects.with_parts().get(pk=cycle.pk).rounds.all())


def statuses(cycle: Cycle) -> list[str]:
    return [step.status for step in steps_of(Cycle.objects.with_parts().get(pk=cycle.pk), rounds_of(cycle))]


def test_each_step_says_what_it_is_for_and_what_came_of_it(cycle: Cycle) -> None:
    assert statuses(cycle) == ["coming"] * 5
    advance(cycle.pk)
    assert statuses(cycle) == ["queued", *["coming"] * 4]
    do_part(cycle)
    advance(cycle.pk)
    assert statuses(cycle) == ["completed", "queued", *["coming"] * 3]
    drive(cycle)
    steps = steps_of(Cycle.objects.with_parts().get(pk=cycle.pk), rounds_of(cycle))
    assert [step.status for step in steps] == ["completed"] * 5
    assert "6 held-out tasks 3 times each" in steps[0].why and "of attempts are right (95 % interval" in steps[0].came_of
    assert "“solved”" in steps[2].why and re.fullmatch(r"\d+ rows from \d of 6 tasks\.", steps[2].came_of)
    assert steps[3].came_of.startswith("Step 4 of 4, loss ")
    assert all(step.url for step in steps)


def test_the_page_is_told_when_the_cycle_has_moved_and_only_then(alice_client: Client, cycle: Cycle) -> None:
    page = alice_client.get(cycle.get_absolute_url()).content.decode()
    (asked,) = re.findall(r'hx-get="([^"]+/steps\?seen=[^"]+)"', page)
    assert "HX-Trigger-After-Settle" not in alice_client.get(asked).headers
    advance(cycle.pk)
    moved = alice_client.get(asked)
    assert "cycle-moved" in moved.headers["HX-Trigger-After-Settle"] and asked not in moved.content.decode()
    header = alice_client.get(f"{cycle.get_absolute_url()}header").content.decode()
    assert "Running" in header and 'hx-trigger="cycle-moved from:body"' in header


def test_rounds_stand_side_by_side_with_every_figure_and_the_way_to_it(alice_client: Client, done: Cycle) -> None:
    table = table_of(Cycle.objects.with_parts().get(pk=done.pk), rounds_of(done))
    assert table.columns == ["Baseline", "Round 1", "Round 2"]
    labels = [line.label for line in table.lines]
    assert labels[:3] == ["Accuracy on held-out tasks", "pass@k on held-out tasks", "Against the baseline"]
    assert {"Tokens", "Took", "Rows", "Training", "Attempts to learn from"} <= set(labels)
    text = alice_client.get(f"{done.get_absolute_url()}found").content.decode()
    assert 'hx-swap-oob="true"' in text and text.count('data-curves="') == 1 and "Round 2" in text
    for round_ in rounds_of(done):
        for part in (round_.eval_run, round_.curation, round_.training_run, round_.judged):
            assert part is not None and f'href="{part.get_absolute_url()}"' in text


def test_the_answer_leads_to_its_tasks_and_to_the_weights(alice_client: Client, done: Cycle) -> None:
    *_, newest = rounds_of(done)
    assert newest.judged is not None and newest.checkpoint is not None and done.baseline is not None
    compared = f"{reverse('evals:compare')}?a={done.baseline.pk}&amp;b={newest.judged.pk}"
    answer, _, rounds = alice_client.get(done.get_absolute_url()).content.decode().partition("Rounds side by side")
    assert f'href="{compared}">' in answer and f'href="{newest.checkpoint.get_absolute_url()}"' in answer
    assert rounds.count(f'href="{compared}"') == 2, "the difference, and what was solved and broken"


def test_the_last_gain_is_a_line_of_its_own_once_there_is_one(done: Cycle) -> None:
    def labels() -> list[str]:
        return [line.label for line in table_of(done, rounds_of(done)).lines]

    first, second = rounds_of(done)
    for round_ in (first, second):
        CycleRound.objects.filter(pk=round_.pk).update(finding={**round_.finding, "reference_round": 0})
    assert "Against the last gain" not in labels()
    CycleRound.objects.filter(pk=second.pk).update(finding={**second.finding, "reference_round": 1})
    assert "Against the last gain" in labels()


def test_the_lineage_is_drawn_twice_and_every_box_is_a_link(alice_client: Client, done: Cycle) -> None:
    cycle, rounds = Cycle.objects.with_parts().get(pk=done.pk), rounds_of(done)
    wide, tall = pictures_of(cycle, rounds)
    for picture in (wide, tall):
        assert len(picture.boxes) == 2 + 2 * COLUMNS and all(placed.box.url for placed in picture.boxes[1:])
        assert all(0 <= placed.x <= picture.width - picture.box_width for placed in picture.boxes)
        assert all(0 <= placed.y <= picture.height - picture.box_height for placed in picture.boxes)
        places = {(placed.x, placed.y) for placed in picture.boxes}
        assert len(places) == len(picture.boxes), "no two boxes in one place"
    assert len(wide.arrows) == 1 + 2 * COLUMNS and tall.width < 390
    page = alice_client.get(done.get_absolute_url()).content.decode()
    for svg in re.findall(r'<svg class="lineage.*?</svg>', page, flags=re.DOTALL):
        tree = ElementTree.fromstring(svg)
        assert len(tree.findall(".//a")) == 1 + 2 * COLUMNS


def test_before_the_first_round_the_loop_is_seen_as_what_is_to_come(cycle: Cycle) -> None:
    wide, _ = pictures_of(cycle, [])
    assert [placed.box.status for placed in wide.boxes] == ["ready", *["coming"] * 7]


def test_a_filter_that_looks_like_markup_is_drawn_as_text(alice_client: Client, make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(curation={"filter": "0<avg and avg<2 and n>1 or best>=1"}))
    page = alice_client.get(cycle.get_absolute_url()).content.decode()
    assert "0<avg" not in page.split("<main")[1]
    assert "0&lt;avg and avg&lt;2…" in page or "0&lt;avg" in page


def told(cycle: Cycle, **found: Any) -> Cycle:
    """The cycle as it would be had its round found this."""
    numbers = {
        "num_common": 200,
        "difference": {"value": 0.012, "low": -0.02, "high": 0.044, "stderr": 0.016},
        "num_newly_solved": 4,
        "num_newly_broken": 2,
        "minimum_detectable_effect": 0.045,
        "spread": {"between": 0.01, "within": 0.3},
    }
    CycleRound.objects.filter(cycle=cycle).update(finding={"baseline": numbers | found, "reference": None, "reference_round": 0})
    seen: Cycle = Cycle.objects.with_parts().get(pk=cycle.pk)
    return seen


def test_where_no_change_can_be_seen_it_says_what_would_show_one(alice_client: Client, cycle: Cycle) -> None:
    drive(cycle)
    answer = answer_of(told(cycle))
    assert answer.level == "info" and answer.sentence.startswith("No change can be seen after round 1: +1.2 points")
    assert "4 newly solved, 2 broken, k = 3 on 200 held-out tasks" in answer.sentence
    assert "a true difference of 4.5 points would be seen four times out of five" in answer.notes[0]
    assert re.fullmatch(r"To see a true change of 5.0 points .*, \d+ such tasks × 3 attempts are needed\.", answer.notes[1])
    assert answer.ks == [3, 12] and [row.effect for row in answer.needed] == [0.05, 0.02, 0.1]
    few, many = answer.needed[1].by_k
    assert few and many and few > many
    page = alice_client.get(cycle.get_absolute_url()).content.decode()
    assert "tasks at k = 12" in page and "Miller 2024" in page


def test_the_size_hoped_for_is_what_was_missing_to_the_target(make_cycle: MakeCycle) -> None:
    cycle = drive(make_cycle(stop={"target": 1.0, "patience": None}))
    assert cycle.baseline is not None
    before = cycle.baseline.summary["avg"]["value"]
    assert answer_of(told(cycle)).needed[0].effect == pytest.approx(1.0 - before)


@pytest.mark.parametrize(
    ("low", "high", "level", "words"), [(0.019, 0.102, "success", "Better after"), (-0.2, -0.1, "error", "Worse after")]
)
def test_a_change_beyond_doubt_is_said_with_its_interval(cycle: Cycle, low: float, high: float, level: str, words: str) -> None:
    drive(cycle)
    value = (low + high) / 2
    answer = answer_of(told(cycle, difference={"value": value, "low": low, "high": high, "stderr": 0.02}))
    assert answer.level == level and answer.sentence.startswith(words) and "95 % interval" in answer.sentence
    assert not answer.needed


def test_spread_is_written_down_when_a_round_is_judged(done: Cycle) -> None:
    assert all("spread" in round_.finding["baseline"] for round_ in rounds_of(done))


def test_an_answer_that_knows_no_spread_still_says_what_it_can(cycle: Cycle) -> None:
    drive(cycle)
    assert answer_of(told(cycle, spread=None)).needed == []


def test_a_cycle_is_told_in_lines_each_once(make_cycle: MakeCycle) -> None:
    lines: list[str] = []
    tell, cycle = Teller(lines.append), make_cycle(rounds=2, stop={"patience": None})
    advance(cycle.pk)
    while do_part(cycle):
        tell(cycle)
        advance(cycle.pk)
        tell(cycle)
    assert sum(line.startswith("\nTraining.") for line in lines) == 2
    assert sum(line.startswith("\nBaseline.") for line in lines) == 1
    assert sum(line.startswith("  → ") for line in lines) == 1 + 2 * 4


def test_a_stranger_sees_no_part_of_the_page(mallory_client: Client, cycle: Cycle) -> None:
    for part in ("", "header", "steps", "found"):
        assert mallory_client.get(f"{cycle.get_absolute_url()}{part}").status_code == 404


def test_the_first_cycle_is_one_button_and_pressed_twice_makes_one(alice: User, alice_client: Client) -> None:
    home = alice_client.get("/").content.decode()
    (key,) = re.findall(r'name="submission_key" value="(\w+)"', home)
    assert 'action="/cycles/first"' in home and "Train the starter model" in home
    sent = [alice_client.post("/cycles/first", {"submission_key": key}) for _ in range(2)]
    cycle = Cycle.objects.get()
    assert [answer["Location"] for answer in sent] == [cycle.get_absolute_url()] * 2
    assert cycle.learn and cycle.judge and (cycle.learn.num_tasks, cycle.judge.num_tasks) == (200, 200)
    assert cycle.config["attempts"] == 8 and cycle.config["curation"]["filter"] == "0 < avg < 1"
    assert alice_client.get("/cycles/first").status_code == 405
