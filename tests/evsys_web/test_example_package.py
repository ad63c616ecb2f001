"""The package of docs/example_package, really installed: its kinds are in the forms, in the REST API's schema and in YAML, and
train; and one that cannot be imported is a warning that people see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from django.test import Client

from evsys_web.datasets.models import DatasetVersion
from recipes.registry import algorithms, backends, callbacks, verifiers
from tests.evsys_web.runs.conftest import version as version

ROOT = Path(__file__).resolve().parents[2]
BROKEN = """[recipes.algorithms]
broken_sft = no_such_module.anywhere:Recipe

[recipes.verifiers]
broken_verifier = no_such_module.anywhere:Verifier
"""
OF_THE_SCHEMA = """
import django
django.setup()
from evsys_web.api.api import api
schema = str(api.get_openapi_schema(path_params={}))
for kind in ("focal", "noted_mock", "within_words"):
    assert repr(kind) in schema, kind
for setting in ("gamma", "note_every", "max_words"):
    assert repr(setting) in schema, setting
assert "How fast known tokens lose their weight; 0 is plain sft." in schema
"""
OF_YAML = """
import sys
from pathlib import Path
import recipes
from recipes.config import RunConfig
config = RunConfig.from_yaml(sys.argv[1])
result = recipes.train(config, run_id="1", output_dir=Path(sys.argv[2]))
assert result.status == "completed", result.error
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed by pip, as anybody would."""
    source, site = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs" / "example_package", source)  # a build leaves files beside the sources
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Seen by this process, as if it had started with the package there; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(site))
    yield from _read_anew(monkeypatch, site)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site" / "broken-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(folder.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from _read_anew(monkeypatch, folder.parent)


def _read_anew(monkeypatch: pytest.MonkeyPatch, site: Path) -> Iterator[Path]:
    for registry in (algorithms, backends, verifiers, callbacks):
        monkeypatch.setattr(registry, "_items", dict(registry._items))
        monkeypatch.setattr(registry, "load_failures", {})
        monkeypatch.setattr(registry, "_entry_points_read", False)
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "evsys_example"]:
        del sys.modules[name]


@pytest.mark.django_db
def test_its_kinds_and_their_settings_are_in_the_forms(alice_client: Client, version: DatasetVersion, installed: Path) -> None:
    page = unescape(alice_client.get("/runs/new?algorithm=focal").content.decode())
    assert '<option value="focal" selected>' in page and '<option value="noted_mock">' in page
    assert "How fast known tokens lose their weight" in page and 'name="algorithm-gamma" value="2"' in page
    chosen = {"algorithm": "focal", "backend": "noted_mock", "algorithm-gamma": "11"}
    settings = unescape(alice_client.post("/runs/new/settings", chosen).content.decode())
    assert "Note only every so many calls" in settings
    refused = alice_client.post("/runs/new", chosen | {"dataset_version": version.pk, "submission_key": "a"}).content.decode()
    assert "less than or equal to 10" in refused


def run(source: str, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "DJANGO_SETTINGS_MODULE": "tests.settings"}
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_they_are_in_the_schema_of_the_rest_api(site: Path) -> None:
    done = run(OF_THE_SCHEMA, site)
    assert done.returncode == 0, done.stderr


def test_a_yaml_with_them_trains(site: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    chats = [[{"role": "user", "content": f"{n} + 1"}, {"role": "assistant", "content": str(n + 1)}] for n in range(8)]
    rows.write_text("\n".join(json.dumps({"messages": messages}) for messages in chats))
    text = f"""
data: {{path: {rows}}}
algorithm: {{kind: focal, params: {{gamma: 1.5, learning_rate: 0.1, num_epochs: 4, batch_size: 4}}}}
backend: {{kind: noted_mock, params: {{note_every: 1}}}}
"""
    done = run(OF_YAML, site, text, str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    assert [call["call"] for call in calls] == ["forward_backward", "optim_step"] * 8
    assert {call["loss_fn"] for call in calls if "loss_fn" in call} == {"custom"}
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [step["metrics"]["train/mean_nll"] for step in steps]
    assert losses[-1] < losses[0]
    wrong = run(OF_YAML, site, text.replace("gamma: 1.5", "gamma: -1"), str(tmp_path / "wrong"))
    assert "algorithm.params.gamma: Input should be greater than or equal to 0" in wrong.stderr


def test_its_verifier_judges(installed: Path) -> None:
    verifier = verifiers.get("within_words")(max_words=3)
    assert verifier.verify("It is 4", 4).is_correct
    assert not verifier.verify("I am quite sure that it is 4", 4).is_correct
    assert not verifier.verify("It is 5", 4).is_correct


@pytest.mark.django_db
def test_a_package_that_cannot_be_imported_is_a_warning_on_the_forms(
    alice_client: Client, alice_headers: dict[str, str], version: DatasetVersion, broken: Path
) -> None:
    page = unescape(alice_client.get("/runs/new").content.decode())
    assert "algorithm broken_sft: ModuleNotFoundError: No module named 'no_such_module'" in page
    assert '<option value="broken_sft"' not in page and '<option value="sft"' in page
    page = unescape(alice_client.get("/evals/new").content.decode())
    assert "verifier broken_verifier: ModuleNotFoundError: No module named 'no_such_module'" in page
    for address, names in (
        ("/cycles/new", ("algorithm broken_sft", "verifier broken_verifier")),
        ("/sweeps/new", ("algorithm broken_sft",)),
    ):
        page = unescape(alice_client.get(address).content.decode())
        assert all(f"{name}: ModuleNotFoundError" in page for name in names), address
    body = {"data": {"dataset": "sums@1"}, "algorithm": {"kind": "broken_sft"}}
    answer = alice_client.post("/api/v1/runs", json.dumps(body), "application/json", headers=alice_headers)
    assert answer.status_code == 422
