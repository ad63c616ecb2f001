"""From a RunConfig to a finished run: finds the rows, the algorithm and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.callbacks import Dispatch
from recipes.checkpoints import Manifest
from recipes.config import RunConfig
from recipes.errors import CheckpointError, ConfigError, DataError, RecipeError
from recipes.jsonl import read_jsonl
from recipes.protocols import Algorithm, Backend, Callback
from recipes.registry import algorithms
from recipes.stores import LocalDataStore, write_atomically
from recipes.types import Checkpoint, LoopState, Row, RunContext, RunResult

CONFIG_FILE = "config.yaml"


def train(
    config: RunConfig,
    *,
    run_id: str,
    output_dir: Path,
    rows: Sequence[Row] | None = None,
    validation_rows: Sequence[Row] | None = None,
    callbacks: Sequence[Callback] = (),
    backend: Backend | None = None,
    secrets: Mapping[str, str] | None = None,
    resume: bool = False,
) -> RunResult:
    """See `recipes.train`."""
    try:
        algorithm = _algorithm(config)
        resume_from = _checkpoint(output_dir, resume)
        extras: dict[str, Any] = {"train_rows": list(rows if rows is not None else _rows_of(config))}
        if validation_rows is not None:
            extras["validation_rows"] = list(validation_rows)
        if resume_from is None:
            write_atomically(output_dir / CONFIG_FILE, config.to_yaml())
    except Exception as error:  # noqa: BLE001 - callbacks must hear of the end; only what was foreseen is swallowed
        result = _refused(error, run_id, output_dir, callbacks)
        if isinstance(error, RecipeError):
            return result
        raise
    ctx = RunContext(
        run_id=run_id,
        output_dir=output_dir,
        config=config,
        data_store=LocalDataStore(output_dir),
        backend=backend,
        callbacks=list(callbacks),
        resume_from=resume_from,
        extras=extras,
        secrets=secrets,
    )
    return algorithm.train(ctx)


def _algorithm(config: RunConfig) -> Algorithm:
    algorithm: Algorithm = algorithms.get(config.algorithm.kind)(**config.algorithm.params)
    return algorithm


def _checkpoint(output_dir: Path, resume: bool) -> Checkpoint | None:
    manifest = Manifest(output_dir)
    if resume:
        return manifest.newest_usable()
    if manifest.read():
        raise CheckpointError(f"{output_dir} already holds the checkpoints of a run. Resume it, or give another folder.")
    return None


def _rows_of(config: RunConfig) -> list[Row]:
    if config.data.path is None:
        raise ConfigError(
            f"The dataset {config.data.dataset!r} is known to the dashboard only: give rows, or data.path.",
            path=("data", "dataset"),
        )
    path = Path(config.data.path)
    if not path.is_file():
        raise DataError(f"There is no file {config.data.path} to read rows from.")
    return [row for _, row in read_jsonl(path)]


def _refused(error: Exception, run_id: str, output_dir: Path, callbacks: Sequence[Callback]) -> RunResult:
    """The end of a run that could not begin: callbacks hear of it as of any other failure."""
    state = LoopState(run_id=run_id, num_steps=0, output_dir=output_dir)
    dispatch = Dispatch(callbacks, state)
    sentence = str(error) if isinstance(error, RecipeError) else f"{type(error).__name__}: {error}"
    result = RunResult(run_id=run_id, status="failed", error=sentence)
    dispatch.event("error", f"Failed before the first step: {sentence}")
    dispatch.fire("on_train_end", state, result)
    return result
