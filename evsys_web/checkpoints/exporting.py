"""What a worker does for an export: merge, and push. Folders appear whole or not at all, and what was staged for a push goes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from evsys_web.checkpoints.model_card import model_card, public_name
from evsys_web.checkpoints.models import Destination, Export, Weights
from evsys_web.checkpoints.recorder import ExportRecorder
from evsys_web.evals.models import EvalRun, Status
from evsys_web.hub import hub_errors, open_hub
from evsys_web.runs.downloads import files_of, folder_within
from recipes.errors import CheckpointError, ConfigError

ADAPTER_CONFIG = "adapter_config.json"


def make_export(export: Export, recorder: ExportRecorder) -> None:
    """Raises ConfigError, CheckpointError, BackendError, Stopped."""
    recorder.phase("starting")
    if export.destination == Destination.DOWNLOAD:
        _write_weights(export, export.folder, recorder)
        return
    staged = export.folder.with_name(f"{export.pk}-push")
    try:
        _write_weights(export, staged, recorder)
        _dress(export, staged)
        recorder.phase("uploading")
        recorder.url = _upload(export, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_weights(export: Export, target: Path, recorder: ExportRecorder) -> None:
    checkpoint = export.checkpoint
    folder = folder_within(checkpoint.run, checkpoint.sampler_uri)
    if folder is None:
        raise CheckpointError("The weights of this checkpoint are not on this server any more.")
    shutil.rmtree(target, ignore_errors=True)  # of a worker that was lost
    target.parent.mkdir(parents=True, exist_ok=True)
    if export.weights == Weights.MERGED and (folder / ADAPTER_CONFIG).is_file():
        try:
            from recipes.backends.local.merging import merge_adapter  # PyTorch is loaded here, in the worker
        except ModuleNotFoundError as missing:
            raise ConfigError(f"Merging needs {missing.name}, which is not installed here. Install requirements.txt.") from None
        with recorder.measuring(target):
            merge_adapter(checkpoint.run.model_name, folder, target, on_phase=recorder.phase)
        return
    recorder.phase("copying")
    for file in files_of(checkpoint):
        _link(folder / file.name, target / file.name)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _dress(export: Export, staged: Path) -> None:
    """The model card; and no path of this server in the adapter's config."""
    evals = EvalRun.objects.filter(checkpoint=export.checkpoint, project=export.project, status=Status.COMPLETED)
    card = model_card(export.checkpoint, evals.select_related("benchmark").order_by("-pk")[:20], weights=export.weights)
    (staged / "README.md").write_text(card, encoding="utf-8")
    config_file = staged / ADAPTER_CONFIG
    if config_file.is_file():
        values = json.loads(config_file.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = public_name(export.checkpoint.run.model_name)
        config_file.unlink()  # it may be another name of the checkpoint's own file
        config_file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _upload(export: Export, staged: Path) -> str:
    """The address of what was pushed."""
    hub = open_hub(export.project, export.credential)
    with hub_errors(export.repository):
        made = hub.create_repo(export.repository, private=export.is_private, exist_ok=True)
        message = f"Step {export.checkpoint.step} of run {export.checkpoint.run_id}"
        hub.upload_folder(repo_id=export.repository, folder_path=staged, commit_message=message)
    return str(made)
