"""The page that starts an eval: what it offers, what it makes of what was typed, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.evals.starter import import_starter_benchmark
from evsys_web.runs.models import Checkpoint, TrainingRun
from evsys_web.runs.status import Status
from tests.evsys_web.evals.eval_runs import build_eval

ROWS = [{"task_id": f"t{n}", "messages": [{"role": "user", "content": f"{n} + {n}?"}], "answer": 2 * n} for n in range(5)]


@pytest.fixture
def tasks(alice: User, project: Project, tmp_path: Path) -> DatasetVersion:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return import_dataset(user=alice, project=project, name="tasks", path=path).version


@pytest.fixture
def benchmark(alice: User, project: Project, tasks: DatasetVersion) -> Benchmark:
    return Benchmark.objects.create(
        project=project,
        created_by=alice,
        name="Doubles",
        dataset_version=tasks,
        dataset_reference=tasks.reference,
        verifier={"kind": "numeric", "params": {}},
        num_tasks=5,
    )


@pytest.fixture
def checkpoint(alice: User, project: Project, settings: Settings, tmp_path: Path) -> Checkpoint:
    settings.RUNS_DIR = tmp_path / "runs"
    config = {"model": {"name": "starter"}, "backend": {"kind": "local", "params": {}}}
    run = TrainingRun.objects.create(project=project, created_by=alice, name="sums", status=Status.COMPLETED, config=config)
    weights = run.output_dir / "checkpoints" / "final"
    return Checkpoint.objects.create(run=run, name="final", step=30, seq=1, sampler_uri=str(weights))


def typed(chosen: Benchmark, **values: Any) -> dict[str, Any]:
    return {
        "submission_key": "once",
        "source": "model",
        "model_name": "starter",
        "benchmark": chosen.pk,
        "attempts-attempts": "4",
        "attempts-max_tasks": "3",
        "sampling-max_tokens": "32",
        "sampling-temperature": "0.7",
        **values,
    }


def test_the_newest_benchmark_and_the_starter_are_chosen_already(alice_client: Client, benchmark):
    text = alice_client.get("/evals/new").content.decode()
    assert f'<option value="{benchmark.pk}" selected>Doubles' in text and 'value="starter"' in text
    assert 'name="verifier"' not in text and 'name="attempts-attempts"' in text


def test_what_was_typed_becomes_an_eval_once(alice_client: Client, benchmark):
    for _ in range(2):
        answer = alice_client.post("/evals/new", typed(benchmark))
        run = EvalRun.objects.get()
        assert answer.status_code == 302 and answer["Location"] == run.get_absolute_url()
    config = run.load_config()
    assert (config.attempts, config.max_tasks, config.sampling.max_tokens, config.sampling.temperature) == (4, 3, 32, 0.7)
    assert (run.benchmark, run.k, run.model_label, run.status) == (benchmark, 4, "starter", Status.QUEUED)
    assert config.verifier.kind == "numeric" and config.data.dataset == "tasks@1"


def test_what_it_will_take_is_said_before_it_is_started(alice_client: Client, benchmark, settings: Settings):
    settings.ALLOW_PRIVATE_URLS = True
    text = alice_client.post("/evals/new/size", typed(benchmark)).content.decode()
    assert '<dt>Attempts</dt><dd class="strong">12</dd>' in text and "12 to 384" in text and "tokens of prompts" in text
    assert "Price" not in text and "price" not in text, "what is computed here is billed by nobody"
    endpoint = {"source": "endpoint", "endpoint-base_url": "http://127.0.0.1:9/v1", "endpoint-model": "m"}
    elsewhere = alice_client.post("/evals/new/size", typed(benchmark, **endpoint)).content.decode()
    assert "The price is not known" in elsewhere and "guessed from the length" in elsewhere
    endpoint |= {"endpoint-base_url": "https://api.openai.com/v1", "endpoint-model": "gpt-4.1-nano"}
    billed = alice_client.post("/evals/new/size", typed(benchmark, **endpoint)).content.decode()
    assert "<dt>Price</dt>" in billed and "as of 21 March 2026" in billed


def test_the_settings_as_typed_go_out_for_a_file_and_a_shell(alice_client: Client, benchmark):
    exported = alice_client.post("/evals/new/export", typed(benchmark)).content.decode()
    assert "attempts: 4" in exported and "/api/v1/evals" in exported
    refused = alice_client.post("/evals/new/export", typed(benchmark, **{"attempts-attempts": "none"})).content.decode()
    assert "nothing to export yet" in refused and EvalRun.objects.count() == 0


def test_a_checkpoint_is_sampled_with_its_own_weights(alice_client: Client, benchmark, checkpoint):
    text = alice_client.get("/evals/new", {"checkpoint": checkpoint.pk}).content.decode()
    assert f'<option value="{checkpoint.pk}" selected>sums · step 30 (final)' in text
    alice_client.post("/evals/new", typed(benchmark, source="checkpoint", checkpoint=checkpoint.pk))
    run = EvalRun.objects.get()
    assert run.checkpoint == checkpoint and run.load_config().model.checkpoint == checkpoint.sampler_uri


def test_an_endpoint_is_asked_under_its_address_and_model(alice_client: Client, benchmark, settings: Settings):
    settings.ALLOW_PRIVATE_URLS = True
    endpoint = {"endpoint-base_url": "http://127.0.0.1:9/v1", "endpoint-model": "m"}
    alice_client.post("/evals/new", typed(benchmark, source="endpoint", **endpoint))
    run = EvalRun.objects.get()
    assert run.load_config().endpoint.base_url == "http://127.0.0.1:9/v1" and run.model_label == "m"


def test_a_model_that_was_typed_stays_and_only_another_backend_brings_another(alice_client: Client, benchmark):
    def field(**values: Any) -> str:
        chosen = typed(benchmark, model_name="/nowhere/model", backend="local", **values)
        page = alice_client.post("/evals/new/settings", chosen).content.decode()
        return page.partition('id="id_model_name"')[0].rpartition("<input")[2]

    assert 'value="/nowhere/model"' in field(shown_backend="local")
    assert 'value="starter"' in field(shown_backend="tinker")


def test_a_key_is_named_and_only_one_of_ones_own_can_be(alice_client: Client, benchmark, mallory, settings: Settings):
    settings.ALLOW_PRIVATE_URLS = True
    endpoint = {"source": "endpoint", "endpoint-base_url": "http://127.0.0.1:9/v1", "endpoint-model": "m"}
    hers = store_credential(user=mallory, project=mallory.default_project(), name="hers", secret="sk-mallory")
    answer = alice_client.post("/evals/new", typed(benchmark, **endpoint, credential=hers.pk))
    assert answer.status_code == 422 and "hers" not in answer.content.decode() and not EvalRun.objects.exists()
    mine = store_credential(user=benchmark.created_by, project=benchmark.project, name="mine", secret="sk-alice-secret")
    alice_client.post("/evals/new", typed(benchmark, **endpoint, credential=mine.pk))
    run = EvalRun.objects.get()
    assert run.load_config().endpoint.credential == "mine" and "sk-alice" not in json.dumps(run.config)


def test_a_base_model_elsewhere_is_asked_with_its_backends_settings_and_stored_key(alice_client: Client, benchmark):
    there = {"backend": "tinker", "model_name": "Qwen/Qwen3-8B", "backend-credential": "tinker"}
    text = alice_client.post("/evals/new/settings", typed(benchmark, **there)).content.decode()
    assert 'name="backend-credential" value="tinker"' in text and 'value="Qwen/Qwen3-8B"' in text
    assert "backend-train_mlp" not in text and "serving-" not in text, "settings of training mean nothing here"
    refused = alice_client.post("/evals/new", typed(benchmark, **there))
    assert refused.status_code == 422 and "tinker" in refused.context["form"].settings["backend"].errors["credential"][0]
    store_credential(user=benchmark.created_by, project=benchmark.project, name="tinker", secret="tml-alice-secret")
    assert "<dt>Price</dt>" in alice_client.post("/evals/new/size", typed(benchmark, **there)).content.decode()
    alice_client.post("/evals/new", typed(benchmark, **there))
    run = EvalRun.objects.get()
    config = run.load_config()
    assert (config.backend.kind, config.model.name, config.model.checkpoint) == ("tinker", "Qwen/Qwen3-8B", None)
    assert config.backend.params["credential"] == "tinker" and "tml-alice" not in json.dumps(run.config)
    clone = alice_client.get("/evals/new", {"clone": run.pk}).content.decode()
    assert '<option value="tinker" selected>' in clone and 'name="backend-credential" value="tinker"' in clone


def test_a_new_benchmark_is_made_on_the_spot_and_found_again(alice_client: Client, benchmark, tasks):
    new = {"benchmark": "", "dataset_version": tasks.pk, "verifier": "contains", "verifier-whole_words": "true"}
    alice_client.post("/evals/new", typed(benchmark, **new, submission_key="a"))
    alice_client.post("/evals/new", typed(benchmark, **new, submission_key="b"))
    made = Benchmark.objects.exclude(pk=benchmark.pk).get()
    assert made.verifier["kind"] == "contains" and made.eval_runs.count() == 2


def test_a_name_that_is_taken_is_said_at_the_name(alice_client: Client, benchmark, tasks):
    new = {"benchmark": "", "dataset_version": tasks.pk, "verifier": "contains", "benchmark_name": "Doubles"}
    answer = alice_client.post("/evals/new", typed(benchmark, **new))
    assert answer.status_code == 422 and not EvalRun.objects.exists()
    assert "Choose another name" in answer.context["form"].choices.errors["benchmark_name"][0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attempts-attempts": "0"}, "greater than or equal to 1"),
        ({"source": "checkpoint"}, "Choose a checkpoint."),
        ({"model_name": ""}, "Choose a model."),
        ({"model_name": "/no/such/folder"}, "/no/such/folder"),
        ({"backend": "nowhere"}, "Select a valid choice"),
        ({"backend": "fireworks"}, "is no model of Fireworks"),
        ({"backend": "tinker", "backend-base_url": "http://10.0.0.1:9"}, "10.0.0.1"),
        ({"source": "endpoint", "endpoint-base_url": "file:///etc/passwd", "endpoint-model": "m"}, "http"),
        ({"benchmark": ""}, "Choose the tasks."),
        ({"benchmark": "999"}, "Select a valid choice"),
        ({"sampling-temperature": "hot"}, "valid number"),
    ],
)
def test_a_mistake_starts_nothing_and_is_said(alice_client: Client, benchmark, values, words):
    answer = alice_client.post("/evals/new", typed(benchmark, **values))
    assert answer.status_code == 422 and words in answer.content.decode()
    assert not EvalRun.objects.exists()


def test_the_verifiers_own_settings_come_when_it_is_chosen(alice_client: Client, benchmark):
    chosen = typed(benchmark, benchmark="", verifier="numeric", **{"sampling-max_tokens": "77"})
    text = alice_client.post("/evals/new/settings", chosen).content.decode()
    assert "verifier-absolute_tolerance" in text and "verifier-pattern" not in text and 'value="77"' in text
    text = alice_client.post("/evals/new/settings", {**chosen, "verifier": "regex_match", "source": "endpoint"}).content.decode()
    assert "verifier-pattern" in text and 'name="endpoint-base_url"' in text and "model_name" not in text


def test_it_counts_what_it_will_take_and_warns_of_tasks_that_do_not_fit(alice_client: Client, benchmark, tasks):
    text = alice_client.post("/evals/new/size", typed(benchmark)).content.decode()
    assert all(word in text for word in ("3", "of 5", "12", "384")) and "not fit" not in text
    unfit = typed(benchmark, benchmark="", dataset_version=tasks.pk, verifier="json_schema")
    text = alice_client.post("/evals/new/size", unfit).content.decode()
    assert "3 of the first 3 tasks do not fit this verifier" in text and "t0" in text
    assert "Attempts: " in alice_client.post("/evals/new/size", typed(benchmark, **{"attempts-attempts": "0"})).content.decode()


def test_a_clone_begins_with_the_same_settings_and_another_name(alice_client: Client, benchmark):
    alice_client.post("/evals/new", typed(benchmark, name="mine"))
    text = alice_client.get("/evals/new", {"clone": EvalRun.objects.get().pk}).content.decode()
    assert 'value="mine 2"' in text and 'value="0.7"' in text and f'<option value="{benchmark.pk}" selected>' in text


def test_strangers_things_are_neither_offered_nor_taken(mallory_client: Client, alice, project, benchmark, tasks, checkpoint):
    run = build_eval(project, alice, name="secret", benchmark=benchmark)
    asked = {"clone": run.pk, "checkpoint": checkpoint.pk, "benchmark": benchmark.pk, "dataset_version": tasks.pk}
    text = mallory_client.get("/evals/new", asked).content.decode()
    assert not any(word in text for word in ("secret", "Doubles", "tasks@1", "sums · step 30"))
    for values in ({}, {"benchmark": "", "dataset_version": tasks.pk, "verifier": "contains"}):
        assert mallory_client.post("/evals/new", typed(benchmark, **values)).status_code == 422
        assert "Doubles" not in mallory_client.post("/evals/new/settings", typed(benchmark, **values)).content.decode()
        assert "12" not in mallory_client.post("/evals/new/size", typed(benchmark, **values)).content.decode()
    assert EvalRun.objects.get() == run


def test_the_starter_benchmark_is_made_once_and_chosen(alice_client: Client, alice, project):
    assert "First some tasks" in alice_client.get("/evals/new").content.decode()
    for _ in range(2):
        page = alice_client.post("/evals/new/starter", follow=True)
    benchmark = Benchmark.objects.get()
    assert (benchmark.name, benchmark.num_tasks, benchmark.dataset_reference) == ("Starter sums", 200, "starter-tasks@1")
    assert f'<option value="{benchmark.pk}" selected>Starter sums' in page.content.decode()
    benchmark.dataset_version.dataset.delete()
    again = import_starter_benchmark(project, alice)
    assert again != benchmark and again.num_tasks == 200
