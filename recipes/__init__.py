"""The recipe layer: trains, evaluates and curates. Pure Python; vendor packages load only when a backend is opened.

The verbs are here; what they do stands in `recipes.runs` and is imported when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.config import RunConfig
    from recipes.protocols import Backend, Callback
    from recipes.types import Row, RunResult

__all__ = ["train"]


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
    """Train one run to its end and say how it ended. Synchronous: it runs an event loop of its own.

    rows: None reads `config.data.path`. backend: None opens the one that the config names; one that is given stays open.
    secrets: handed to that backend, stored nowhere. resume: go on from the newest checkpoint in `output_dir` whose state still
    exists, or from the beginning when there is none.

    A foreseen failure (RecipeError) ends as `status="failed"` with a sentence; anything else is recorded as an event and raised.
    Callbacks hear `on_train_end` in every case. To stop: `state.request_stop()` from a callback or another thread.
    The run directory then holds config.yaml, metrics.jsonl, checkpoints.jsonl and checkpoints/<name>/.
    """
    from recipes.runs import train as run

    return run(
        config,
        run_id=run_id,
        output_dir=output_dir,
        rows=rows,
        validation_rows=validation_rows,
        callbacks=callbacks,
        backend=backend,
        secrets=secrets,
        resume=resume,
    )
