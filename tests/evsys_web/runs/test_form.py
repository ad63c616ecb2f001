"""The page that starts a run: what it offers, what it keeps, where it puts mistakes, and that one click makes one run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.form_views import next_name
from evsys_web.runs.forms import RunForm
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from evsys_web.runs.snippets import yaml_of
from recipes.config import RunConfig
from recipes.presets import recommended
from recipes.registry import backends
from tests.evsys_web.runs.conftest import mock_config

NEW = "/runs/new"


def fields(version: DatasetVersion | None, **changes: str) -> dict[str, str]:
    """What a browser would post for a mock run."""
    return {
        "name": "first",
        "dataset_version": str(version.pk) if version else "",
        "model_name": "starter",
        "algorithm": "mock_sft",
        "backend": "mock",
        "submission_key": "one-click",
        "algorithm-batch_size": "4",
        "algorithm-learning_rate": "2e-4",
        "backend-step_seconds": "0",
        **changes,
    }


def recommended_rate(model_name: str) -> str:
    return str(recommended(model_name, "sft").params["learning_rate"])


def value_of(page: str, name: str) -> str:
    found = re.search(rf'name="{re.escape(name)}"[^>]*value="([^"]*)"|value="([^"]*)"[^>]*name="{re.escape(name)}"', page)
    assert found, f"no field {name}"
    return found.group(1) if found.group(1) is not None else found.group(2)


def test_the_form_starts_from_values_that_are_recommended_for_the_starter(alice_client: Client, version: DatasetVersion):
    page = alice_client.get(NEW).content.decode()
    assert value_of(page, "algorithm-learning_rate") == recommended_rate("starter")
    assert f'<option value="{version.pk}" selected>' in page
    assert "Advanced" in page and "Recommended values" in page


def test_somebody_without_rows_is_told_to_upload_some(alice_client: Client):
    assert "First some rows" in alice_client.get(NEW).content.decode()


def test_posting_makes_a_queued_run_with_the_typed_settings(alice_client: Client, version: DatasetVersion):
    answer = alice_client.post(NEW, fields(version))
    run = TrainingRun.objects.get()
    assert answer.url == run.get_absolute_url()
    assert (run.name, run.status, run.dataset_version) == ("first", Status.QUEUED, version)
    assert run.load_config().algorithm_config().learning_rate == 2e-4


def test_the_same_form_posted_twice_makes_one_run(alice_client: Client, version: DatasetVersion):
    first, second = (alice_client.post(NEW, fields(version)) for _ in range(2))
    assert first.url == second.url
    assert TrainingRun.objects.count() == 1
    changed = alice_client.post(NEW, fields(version) | {"algorithm-learning_rate": "3e-4"})
    assert changed.url != first.url, "the browser's Back, another rate, and Start: that is another run, not the former in silence"


def test_two_openings_of_the_form_have_different_keys(alice_client: Client, version: DatasetVersion):
    assert len({value_of(alice_client.get(NEW).content.decode(), "submission_key") for _ in range(2)}) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algorithm-learning_rate": "nan"}, "finite number"),
        ({"algorithm-batch_size": "0"}, "greater than or equal to 1"),
        ({"model_name": "/no/such/folder"}, "There is no folder"),
        ({"model_name": ""}, "required"),
        ({"dataset_version": "999999"}, "valid choice"),
        ({"algorithm": "no_such_thing"}, "valid choice"),
        ({"backend-step_seconds": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_mistake_is_said_at_its_field_and_nothing_typed_is_lost(alice_client: Client, version: DatasetVersion, change, said):
    page = alice_client.post(NEW, fields(version, **{"name": "keep me", **change})).content.decode()
    assert TrainingRun.objects.count() == 0
    assert said in page and "Nothing was started" in page
    assert value_of(page, "name") == "keep me"
    assert value_of(page, "submission_key") == "one-click"


def test_a_mistake_under_advanced_opens_it(alice_client: Client, version: DatasetVersion):
    page = alice_client.post(NEW, fields(version, **{"algorithm-adam_eps": "0"})).content.decode()
    assert re.search(r'id="advanced-algorithm" open', page)


def test_a_strangers_dataset_and_checkpoint_are_no_choices(mallory_client: Client, version: DatasetVersion, run: TrainingRun):
    saved = Checkpoint.objects.create(run=run, name="final", step=1, sampler_uri="somewhere")
    page = mallory_client.post(NEW, fields(version, checkpoint=str(saved.pk), cloned_from=str(run.pk)))
    assert page.status_code == 200
    assert TrainingRun.objects.exclude(pk=run.pk).count() == 0


def test_hostile_names_are_escaped(alice_client: Client, version: DatasetVersion):
    page = alice_client.post(NEW, fields(version, name="<script>alert(1)</script>", model_name="")).content.decode()
    assert "<script>alert" not in page


def test_switching_the_algorithm_keeps_what_was_typed_and_renews_the_rest(alice_client: Client, version: DatasetVersion):
    typed = fields(
        version, algorithm="mock_sft", **{"algorithm-learning_rate": recommended_rate("starter"), "algorithm-batch_size": "7"}
    )
    page = alice_client.post("/runs/new/settings", {**typed, "shown_for": "starter|sft"}).content.decode()
    assert value_of(page, "algorithm-batch_size") == "7"  # typed
    assert value_of(page, "algorithm-learning_rate") == "0.0001"  # the old recommendation, untouched: now the new default
    assert "algorithm-step_seconds" in page
    assert "errorlist" not in page and "field-error" not in page


def test_another_model_brings_its_own_recommendation(alice_client: Client, version: DatasetVersion):
    typed = fields(
        version, algorithm="sft", model_name="Qwen/Qwen3-0.6B", **{"algorithm-learning_rate": recommended_rate("starter")}
    )
    page = alice_client.post("/runs/new/settings", {**typed, "shown_for": "starter|sft"}).content.decode()
    assert value_of(page, "algorithm-learning_rate") == recommended_rate("Qwen/Qwen3-0.6B")


def test_fields_that_the_backend_ignores_say_so(alice, version: DatasetVersion, monkeypatch):
    from recipes.registry import backends

    monkeypatch.setattr(backends.get("mock"), "ignored_fields", frozenset({"weight_decay"}))
    form = RunForm(alice, fields(version, algorithm="sft")).settings["algorithm"]
    assert [bound.name for bound in form if bound.field.is_ignored] == ["weight_decay"]
    form = RunForm(alice, fields(version, algorithm="mock_sft")).settings["algorithm"]
    assert [bound.name for bound in form if bound.field.is_ignored] == ["lora_rank", "renderer_name", "enable_thinking"]


def test_an_installed_packages_algorithm_is_drawn_and_launched_like_our_own(alice_client: Client, version, monkeypatch):
    from recipes.algorithms.mock import MockSFT, MockSFTConfig
    from recipes.registry import algorithms

    class FocalConfig(MockSFTConfig):
        gamma: float = 2.0

    class FocalSFT(MockSFT):
        Config = FocalConfig

    monkeypatch.setitem(algorithms._items, "focal_sft", FocalSFT)
    typed = fields(version, algorithm="focal_sft", **{"algorithm-gamma": "3.5"})
    assert value_of(alice_client.post("/runs/new/settings", typed).content.decode(), "algorithm-gamma") == "3.5"
    alice_client.post(NEW, typed)
    assert TrainingRun.objects.get().config["algorithm"]["params"]["gamma"] == 3.5


def test_the_estimate_follows_what_is_typed(alice_client: Client, version: DatasetVersion):
    page = alice_client.post("/runs/new/estimate", fields(version, **{"algorithm-num_epochs": "2"})).content.decode()
    assert re.search(r"Steps</dt><dd[^>]*>6<", page)  # 12 rows, 4 a batch, twice
    assert (
        "Not known yet"
        in alice_client.post("/runs/new/estimate", fields(version, **{"algorithm-batch_size": "x"})).content.decode()
    )


def test_a_clone_is_the_form_filled_in(alice_client: Client, version: DatasetVersion, make_run):
    origin = make_run(config=mock_config(learning_rate=0.0123), dataset_version=version)
    page = alice_client.get(f"{NEW}?clone={origin.pk}").content.decode()
    assert value_of(page, "algorithm-learning_rate") == "0.0123"
    assert value_of(page, "name") == "sums 2"
    alice_client.post(NEW, fields(version, cloned_from=value_of(page, "cloned_from")))
    assert TrainingRun.objects.get(name="first").cloned_from == origin


def test_going_on_from_a_checkpoint_sets_where_the_weights_begin(alice_client: Client, version: DatasetVersion, run, runs_dir):
    saved = Checkpoint.objects.create(run=run, name="final", step=9, sampler_uri=str(runs_dir / str(run.pk) / "final"))
    page = alice_client.get(f"{NEW}?checkpoint={saved.pk}").content.decode()
    assert f'<option value="{saved.pk}" selected>' in page
    alice_client.post(NEW, fields(version, checkpoint=str(saved.pk)))
    assert TrainingRun.objects.get(name="first").load_config().model.init_from_checkpoint == saved.sampler_uri


def test_a_strangers_run_cannot_be_cloned(mallory_client: Client, run: TrainingRun):
    assert b"sums 2" not in mallory_client.get(f"{NEW}?clone={run.pk}").content


def test_export_gives_yaml_and_a_call_that_say_the_same(alice_client: Client, version: DatasetVersion):
    page = alice_client.post("/runs/new/export", fields(version)).content.decode()
    blocks = [
        block.replace("&quot;", '"').replace("&#x27;", "'") for block in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    ]
    yaml, curl = blocks
    body = shlex.split(curl)[-1]
    assert RunConfig.from_yaml(yaml) == RunConfig.from_values(json.loads(body))
    assert "learning_rate: 0.0002" in yaml


@pytest.mark.parametrize("as_file", [True, False])
def test_imported_yaml_fills_the_form_and_starts_nothing(alice_client: Client, version: DatasetVersion, as_file):
    text = yaml_of(RunConfig, {**mock_config(batch_size=5), "name": "from file"})
    posted = {"file": SimpleUploadedFile("run.yaml", text.encode())} if as_file else {"yaml": text}
    page = alice_client.post("/runs/new/import", posted).content.decode()
    assert (value_of(page, "algorithm-batch_size"), value_of(page, "name")) == ("5", "from file")
    assert f'<option value="{version.pk}" selected>' in page
    assert TrainingRun.objects.count() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Paste a run"),
        ("name: [", "not YAML in line 1"),
        ("just words", "mapping"),
        ("data: {dataset: sums@1}\nalgorithm: {kind: mock_sft, params: {batch_size: 0}}", "batch_size"),
        ("data: {dataset: sums@1}\nalgorithm: {kind: unheard_of}", "unheard_of"),
    ],
)
def test_yaml_that_cannot_be_read_is_answered_with_the_place_of_the_mistake(alice_client: Client, version, text, said):
    page = alice_client.post("/runs/new/import", {"yaml": text}).content.decode()
    assert said in page
    assert text.split("\n")[0][:8] in page


def test_a_binary_file_is_no_yaml(alice_client: Client, version: DatasetVersion):
    page = alice_client.post("/runs/new/import", {"file": SimpleUploadedFile("x.yaml", b"\xff\xfe\x00")}).content.decode()
    assert "This file is no text" in page


def test_yaml_that_reads_a_file_or_a_lost_dataset_asks_for_another(alice_client: Client, version: DatasetVersion):
    for data, said in (("{path: rows.jsonl}", "choose a dataset"), ("{dataset: gone@3}", "gone@3")):
        text = f"data: {data}\nalgorithm: {{kind: mock_sft}}\nbackend: {{kind: mock}}"
        assert said in alice_client.post("/runs/new/import", {"yaml": text}).content.decode()


@pytest.mark.parametrize(("name", "following"), [("sums", "sums 2"), ("sums 2", "sums 3"), ("a 9", "a 10"), ("v2", "v2 2")])
def test_a_clone_gets_the_next_number(name, following):
    assert next_name(name) == following


def test_a_dataset_asked_for_in_the_address_is_chosen(alice_client: Client, version: DatasetVersion):
    for parameter in ("dataset", "dataset_version"):
        assert (
            f'<option value="{version.pk}" selected>'
            in alice_client.get(reverse("runs:new"), {parameter: version.pk}).content.decode()
        )


def test_tasks_are_offered_to_what_learns_from_tasks_and_chats_to_what_learns_from_chats(
    alice_client: Client, alice: User, project: Project, version: DatasetVersion, tmp_path: Path
):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"task_id": "a", "messages": [{"role": "user", "content": "1 + 1?"}], "answer": 2}\n')
    tasks = import_dataset(user=alice, project=project, name="tasks", path=path).version
    by_default = alice_client.get("/runs/new").content.decode()
    assert f'value="{version.pk}" selected' in by_default and "tasks@1" not in by_default
    from_tasks = alice_client.get(f"/runs/new?dataset_version={tasks.pk}").content.decode()
    assert 'value="rl" selected' in from_tasks and f'value="{tasks.pk}" selected' in from_tasks
    assert "sums@1" not in from_tasks


def test_pairs_are_offered_to_what_learns_from_pairs_and_chats_refused_there(
    alice_client: Client, alice: User, project: Project, version: DatasetVersion, tmp_path: Path
):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n')
    pairs = import_dataset(user=alice, project=project, name="pairs", path=path).version
    page = alice_client.get(f"/runs/new?dataset_version={pairs.pk}").content.decode()
    assert 'value="dpo" selected' in page and f'value="{pairs.pk}" selected' in page and "sums@1" not in page
    assert 'name="algorithm-beta"' in page
    refused = alice_client.post(NEW, fields(version, algorithm="dpo")).content.decode()
    assert "dpo learns from preference rows, and sums@1 holds messages rows" in refused and not TrainingRun.objects.exists()


def test_a_backend_that_cannot_serve_a_teacher_is_refused_at_its_field(
    alice_client: Client, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
):
    chosen = fields(version, algorithm="sdft", backend="mock")
    monkeypatch.setattr(backends.get("mock"), "gives_topk_prompt_logprobs", False)
    page = alice_client.post(NEW, chosen).content.decode()
    assert "which the backend mock does not tell" in page and not TrainingRun.objects.exists()
    monkeypatch.undo()
    alice_client.post(NEW, chosen)
    assert "{golden_answer}" in TrainingRun.objects.get().config["algorithm"]["params"]["demo_template"]


def test_an_algorithm_can_be_asked_for_by_address_and_brings_rows_that_it_learns_from(
    alice_client: Client, alice: User, project: Project, version: DatasetVersion, tmp_path: Path
):
    without = alice_client.get("/runs/new?algorithm=dpo").content.decode()
    assert 'value="dpo" selected' in without and "No dataset here holds preference rows, which dpo learns from" in without
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n')
    pairs = import_dataset(user=alice, project=project, name="pairs", path=path).version
    page = alice_client.get("/runs/new?algorithm=dpo").content.decode()
    assert 'value="dpo" selected' in page and f'value="{pairs.pk}" selected' in page
    misfit = alice_client.get(f"/runs/new?algorithm=dpo&dataset_version={version.pk}").content.decode()
    assert "dpo learns from preference rows, and sums@1 holds messages rows" in misfit
    unknown = alice_client.get("/runs/new?algorithm=<script>").content.decode()
    assert 'value="sft" selected' in unknown and "<script>&" not in unknown


def test_rows_that_another_algorithm_learns_from_are_let_go_as_soon_as_it_is_chosen(
    alice_client: Client, alice: User, project: Project, version: DatasetVersion, tmp_path: Path
):
    chosen = fields(version, algorithm="dpo", shown_for="starter|sft")
    empty = alice_client.post("/runs/new/settings", chosen).content.decode()
    assert "sums@1" not in empty and "No dataset here holds preference rows" in empty
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n')
    pairs = import_dataset(user=alice, project=project, name="pairs", path=path).version
    followed = alice_client.post("/runs/new/settings", chosen).content.decode()
    assert f'value="{pairs.pk}" selected' in followed and "sums@1" not in followed
    back = alice_client.post("/runs/new/settings", fields(pairs, algorithm="sft", shown_for="starter|dpo")).content.decode()
    assert f'value="{version.pk}" selected' in back and "pairs@1" not in back


def test_an_algorithm_that_trains_by_itself_asks_for_no_backend(alice_client: Client, version: DatasetVersion):
    chosen = {"model_name": "starter", "algorithm": "local_sft", "backend": "tinker", "dataset_version": str(version.pk)}
    page = alice_client.post("/runs/new/settings", chosen).content.decode()
    assert "there is no backend to choose" in page and "backend-base_url" not in page
    back = alice_client.post("/runs/new/settings", chosen | {"algorithm": "sft"}).content.decode()
    assert "backend-base_url" in back, "the choice made before is still there"
    alice_client.post(NEW, fields(version, algorithm="local_sft", backend="tinker", **{"algorithm-rows_at_once": "2"}))
    run = TrainingRun.objects.get()
    assert run.config["algorithm"]["params"]["rows_at_once"] == 2
    assert run.config["backend"] == {"kind": "local", "params": {}}
