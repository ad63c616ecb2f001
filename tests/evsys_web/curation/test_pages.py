"""The workbench and what it publishes, as people click through it."""

from __future__ import annotations

import html
import json
import re
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from evsys_web.accounts.models import Project, User
from evsys_web.curation.actions import Published, save_filter
from evsys_web.curation.models import Curation, Filter
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun, Status
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.models import Status as RunStatus
from recipes.curation import CurationSettings
from tests.evsys_web.curation.conftest import MakeRun, add_attempts

HOSTILE = [
    "",
    " ",
    "avg <",
    "pass > 0",
    "__import__('os')",
    "(" * 3000,
    "<script>alert(1)</script>",
    "0 / 0",
    "avg\x00",
    "nan",
    "é",
]


def preview(client: Client, run: EvalRun, **asked: str) -> tuple[str, dict[str, str]]:
    """The fragment and its headers."""
    answer = client.get(reverse("curation:preview"), {"eval": run.pk, **asked})
    assert answer.status_code == 200
    return answer.content.decode(), dict(answer.headers)


def plain(text: str) -> str:
    """What a person reads."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def before_of(text: str) -> str:
    found = re.search(r'name="before" value="([^"]*)"', text)
    assert found is not None
    return html.unescape(found[1])


def test_the_page_offers_evals_presets_and_names(alice_client: Client, run: EvalRun) -> None:
    page = alice_client.get(reverse("curation:new"), {"eval": run.pk, "filter": "0 < avg < 1"}).content.decode()
    assert f'value="{run.pk}" checked' in page and "0 &lt; avg &lt; 1</textarea>" in page
    for word in ("Difficulty band", "Hard only", "pass@k", "n_correct", 'value="Sums curated"'):
        assert word in page


def test_without_attempts_it_says_how_to_make_some(alice_client: Client) -> None:
    for name in ("curation:new", "curation:list"):
        assert "First some attempts" in alice_client.get(reverse(name)).content.decode()


def test_a_preview_says_what_is_kept_and_why(alice_client: Client, run: EvalRun) -> None:
    text, headers = preview(alice_client, run, filter="0 < avg < 1")
    said = plain(text)
    assert "Tasks 2 of 4" in said and "Rows 4 of 16 attempts" in said and "Tokens in replies 20" in said
    assert "0 < avg < 1 holds: avg is 0.25" in said and "avg < 1 fails: avg is 1" in said
    assert "1 / 4 right" in said and reverse("evals:task", args=[run.pk, 2]) in text
    query = urlsplit(headers["HX-Replace-Url"]).query
    assert dict(parse_qsl(query)) == {"eval": str(run.pk), "filter": "0 < avg < 1"}
    assert "HX-Reswap" not in headers


def test_it_says_what_changed_and_keeps_saying_it_until_something_changes(alice_client: Client, run: EvalRun) -> None:
    first, _ = preview(alice_client, run, filter="solved")
    second, _ = preview(alice_client, run, filter="0 < avg < 1", before=before_of(first))
    assert "+0 −1 task, −4 rows since solved" in plain(second)
    third, _ = preview(alice_client, run, filter="0<avg<1", before=before_of(second))
    assert "+0 −1 task, −4 rows since solved" in plain(third)
    fourth, _ = preview(alice_client, run, filter="n > 0", before=before_of(third))
    assert "+2 −0 tasks, +4 rows since 0 < avg < 1" in plain(fourth)


@pytest.mark.parametrize(
    "before", ["{", "[]", '{"runs": [], "settings": {"filter": "("}}', "[" * 5000, '{"runs": 1, "settings": 2}']
)
def test_a_forged_memory_of_before_changes_nothing(alice_client: Client, run: EvalRun, before: str) -> None:
    text, _ = preview(alice_client, run, filter="solved", before=before)
    assert "since" not in plain(text)


def test_held_out_rows_are_shown_as_a_split(alice_client: Client, make_run: MakeRun) -> None:
    run = make_run({f"task-{n}": [0, 1] for n in range(40)})
    said = plain(preview(alice_client, run, filter="solved", val_fraction="0.25")[0])
    assert re.search(r"train \d+ rows from \d+ tasks · validation \d+ rows? from \d+ tasks?", said)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_filter_that_is_not_understood_leaves_the_last_result(alice_client: Client, run: EvalRun, text: str) -> None:
    answer, headers = preview(alice_client, run, filter=text)
    assert headers["HX-Reswap"] == "none" and 'id="result"' not in answer
    assert "curation-mistake" in answer and "^" in answer and "<script>" not in answer
    assert "Traceback" not in answer


def test_the_caret_stands_below_the_mistake(alice_client: Client, run: EvalRun) -> None:
    answer, _ = preview(alice_client, run, filter="0 < avgg < 1")
    assert "0 &lt; avgg &lt; 1\n    ^^^^" in answer and "Character 5" in answer


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"val_fraction": "2"}, "Validation fraction"),
        ({"metric": "elegance"}, "No attempt has the metric"),
        ({"select": "best-n"}, "needs max_per_task"),
        ({"max_per_task": "many"}, "Max per task"),
    ],
)
def test_another_mistake_is_said_above_the_result(
    alice_client: Client, run: EvalRun, asked: dict[str, str], sentence: str
) -> None:
    answer, headers = preview(alice_client, run, **asked)
    assert headers["HX-Reswap"] == "none" and sentence in plain(answer)


def test_a_running_eval_may_be_looked_at_and_is_named(alice_client: Client, make_run: MakeRun) -> None:
    run = make_run(status=Status.RUNNING, name="live one")
    assert "live one is still running" in plain(preview(alice_client, run)[0])
    add_attempts(run, {"new": [1]})
    assert "Tasks 4 of 5" in plain(preview(alice_client, run)[0])


def test_names_and_prompts_of_models_stay_text(alice_client: Client, make_run: MakeRun) -> None:
    run = make_run({"<b>task</b>": [0, 1]}, name="<i>run</i>", model_label="<u>model</u>")
    run.tasks.update(prompt="<script>alert(1)</script>")
    page = alice_client.get(reverse("curation:new"), {"eval": run.pk}).content.decode()
    text = page + preview(alice_client, run)[0]
    for tag in ("<b>task", "<i>run", "<u>model", "<script>alert"):
        assert tag not in text


def test_publishing_leads_to_what_was_made(alice_client: Client, run: EvalRun) -> None:
    asked = {"eval": run.pk, "filter": "0 < avg < 1", "name": "band"}
    page = alice_client.post(reverse("curation:new"), asked, follow=True)
    curation = Curation.objects.get()
    assert page.redirect_chain[-1][0] == curation.get_absolute_url()
    said = plain(page.content.decode())
    assert "4 rows published as band@1" in said and "0 < avg < 1" in said and "Train on this" in said
    again = alice_client.post(reverse("curation:new"), asked, follow=True)
    assert "already has exactly these rows" in plain(again.content.decode())
    assert DatasetVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"filter": "avg > 2", "name": "none"}, "no attempt passes"),
        ({"filter": "avg >", "name": "none"}, "Character"),
        ({"filter": "solved", "name": "a/b"}, "Begin with a letter"),
    ],
)
def test_what_cannot_be_published_comes_back_as_typed(
    alice_client: Client, run: EvalRun, asked: dict[str, str], sentence: str
) -> None:
    answer = alice_client.post(reverse("curation:new"), {"eval": run.pk, **asked})
    assert answer.status_code == 422
    page = answer.content.decode()
    assert sentence in plain(page) and f'value="{asked["name"]}"' in page and not Curation.objects.exists()


def test_curate_again_opens_the_workbench_as_it_was(alice_client: Client, published: Published, run: EvalRun) -> None:
    asked = dict(parse_qsl(urlsplit(published.curation.workbench_url).query))
    assert (asked["filter"], asked["eval"], asked["name"], asked["dedup"]) == ("0 < avg < 1", str(run.pk), "band", "false")
    page = alice_client.get(published.curation.workbench_url).content.decode()
    assert "0 &lt; avg &lt; 1</textarea>" in page and f'value="{run.pk}" checked' in page


def test_a_filter_is_saved_offered_and_deleted(alice_client: Client, bob_client: Client, run: EvalRun) -> None:
    asked = {"eval": run.pk, "filter": "avg < 0.5", "filter_name": "hard"}
    assert alice_client.post(reverse("curation:save-filter"), asked).status_code == 302
    page = bob_client.get(reverse("curation:new"), {"eval": run.pk}).content.decode()
    found = re.search(r'data-settings="([^"]*)">hard', page)
    assert found is not None and json.loads(html.unescape(found[1]))["filter"] == "avg < 0.5"
    assert "hard" in bob_client.get(reverse("curation:list")).content.decode()
    bob_client.post(reverse("curation:delete-filter", args=[Filter.objects.get().pk]))
    assert not Filter.objects.exists()


def test_a_mistake_saves_no_filter(alice_client: Client, run: EvalRun) -> None:
    for asked in ({"filter": "avg <", "filter_name": "x"}, {"filter": "solved", "filter_name": " "}):
        assert alice_client.post(reverse("curation:save-filter"), {"eval": run.pk, **asked}).status_code == 422
    assert not Filter.objects.exists()


def test_the_list_shows_what_was_published(alice_client: Client, published: Published) -> None:
    said = plain(alice_client.get(reverse("curation:list")).content.decode())
    assert "band 0 < avg < 1 correct sums 2 / 4 4 band@1" in said


def test_mallory_sees_nothing_of_it(mallory_client: Client, published: Published, run: EvalRun, alice: User) -> None:
    saved = save_filter(user=alice, project=run.project, name="secret", settings=CurationSettings())
    assert "secret" not in mallory_client.get(reverse("curation:list")).content.decode()
    page = mallory_client.get(reverse("curation:new"), {"eval": run.pk}).content.decode()
    assert "First some attempts" in page and "starter" not in page
    answer, headers = preview(mallory_client, run, filter="solved")
    assert "Choose at least one eval run" in answer and headers["HX-Reswap"] == "none"
    assert mallory_client.post(reverse("curation:new"), {"eval": run.pk, "name": "mine"}).status_code == 422
    assert mallory_client.post(reverse("curation:delete-filter", args=[saved.pk])).status_code == 404
    assert mallory_client.get(published.curation.get_absolute_url()).status_code == 404


def test_lineage_is_one_click_away_in_both_directions(
    alice_client: Client, published: Published, run: EvalRun, alice: User, project: Project
) -> None:
    trained = TrainingRun.objects.create(
        project=project, created_by=alice, name="first run", status=RunStatus.COMPLETED, dataset_version=published.version
    )
    Checkpoint.objects.create(run=trained, name="step-7", step=7, seq=1, sampler_uri="/weights/7")
    config = {"model": {"name": "starter", "init_from_checkpoint": "/weights/7"}}
    TrainingRun.objects.create(project=project, name="second run", config=config, status=RunStatus.QUEUED)
    task = run.tasks.get(task_id="often")
    said = plain(alice_client.get(reverse("curation:task-lineage", args=[run.pk, task.position])).content.decode())
    assert "Attempt 1 band@1, row 2 train" in said and "first run" in said and "checkpoint at step 7" in said
    assert "second run" in said and "went on from first run" in said
    sources = alice_client.get(reverse("curation:row-sources", args=[published.version.pk]), {"shown": "1,2,x,999,"})
    assert "sums · often · attempt 1" in plain(sources.content.decode())
    assert f"{task.get_absolute_url()}#attempt-1" in sources.content.decode()
    origin = alice_client.get(reverse("curation:version-origin", args=[published.version.pk]))
    assert published.curation.get_absolute_url() in origin.content.decode()
    assert "first run" in plain(alice_client.get(published.curation.get_absolute_url()).content.decode())


def test_other_pages_lead_here(alice_client: Client, published: Published, run: EvalRun) -> None:
    detail = alice_client.get(run.get_absolute_url()).content.decode()
    assert f"{reverse('curation:new')}?eval={run.pk}" in detail
    task = alice_client.get(run.tasks.first().get_absolute_url()).content.decode()
    assert reverse("curation:task-lineage", args=[run.pk, 1]) in task
    version = alice_client.get(published.version.get_absolute_url()).content.decode()
    assert reverse("curation:version-origin", args=[published.version.pk]) in version
    assert f"{reverse('curation:row-sources', args=[published.version.pk])}?shown=1,2,3,4," in version
    assert (
        "Nothing was made from it"
        in alice_client.get(reverse("datasets:delete-version", args=[published.version.pk])).content.decode()
    )


def test_pages_ask_the_database_little(
    alice_client: Client, published: Published, run: EvalRun, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    preview(alice_client, run, filter="solved")
    with django_assert_max_num_queries(6):
        preview(alice_client, run, filter="0 < avg < 1")
    for url, most in ((reverse("curation:list"), 8), (published.curation.get_absolute_url(), 9)):
        with django_assert_max_num_queries(most):
            alice_client.get(url)


def test_pairs_are_counted_and_shown_side_by_side_while_they_are_asked_for(alice_client: Client, run: EvalRun):
    text, _ = preview(alice_client, run, filter="0 < avg < 1", rows="pairs", max_pairs="2")
    said = plain(text)
    assert "Pairs 4 from 16 attempts" in said and "2 pairs are left out by the cap per task" in said
    assert "Chosen: attempt 2 · score 1 Right 1 Rejected: attempt 1 · score 0 Wrong 0" in said
    assert "rejected in a pair" in text and "chosen in a pair" in text
    none, _ = preview(alice_client, run, filter="solved", rows="pairs", select="best", max_pairs="1")
    assert "1 kept tasks lack a reply that passes, or one that does not" in plain(none)
    empty, _ = preview(alice_client, run, filter="avg == 1", rows="pairs")
    assert "No kept task has a reply that passes and another one that does not" in plain(empty)
    refused, _ = preview(alice_client, run, rows="pairs", select="all")
    assert "pairs need attempts that pass" in plain(refused).lower() or "Pairs need attempts that pass" in plain(refused)


def test_what_pairs_say_is_text_and_nothing_else(alice_client: Client, make_run: MakeRun):
    run = make_run({"sum": [1, 0]})
    for attempt in run.attempts.all():
        attempt.messages[-1]["content"] = f"<script>alert({attempt.attempt})</script>"
        attempt.save()
    text, _ = preview(alice_client, run, filter="true", rows="pairs")
    assert "<script>" not in text and "&lt;script&gt;alert(0)" in text


def test_published_pairs_lead_to_dpo_and_back_to_both_attempts(alice_client: Client, run: EvalRun):
    asked = {"eval": run.pk, "filter": "0 < avg < 1", "rows": "pairs", "max_pairs": "2", "name": "pairs"}
    page = alice_client.post(reverse("curation:new"), asked, follow=True).content.decode()
    assert "4 rows published as pairs@1" in page and "Pairs" in plain(page)
    version = DatasetVersion.objects.get()
    assert 'value="dpo" selected' in alice_client.get(f"/runs/new?dataset={version.pk}").content.decode()
    sources = alice_client.get(reverse("curation:row-sources", args=[version.pk]), {"shown": "1"}).content.decode()
    assert "chosen from sums · seldom · attempt 2 ; rejected from sums · seldom · attempt 1" in plain(sources)
    workbench = alice_client.get(Curation.objects.get().workbench_url).content.decode()
    assert re.search(r'<option value="pairs" selected', workbench)
