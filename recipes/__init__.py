"""The recipe layer: trains, evaluates and curates. Pure Python; vendor packages load only when a backend is opened.

The verbs are here; what they do stands in `recipes.runs` and is imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.chat import ChatClient
    from recipes.config import RunConfig
    from recipes.curation import Curated, CurationSettings
    from recipes.eval_config import EvalConfig
    from recipes.evals.runner import EvalResult
    from recipes.protocols import Backend, Callback
    from recipes.rollouts import AttemptResult
    from recipes.types import Row, RunResult, Task

__all__ = ["curate", "evaluate", "train"]


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


def evaluate(
    config: EvalConfig,
    *,
    tasks: Iterable[Task] | None = None,
    run_dir: Path | None = None,
    done: Collection[tuple[str, int]] | None = None,
    on_attempt: Callable[[AttemptResult], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    client: ChatClient | None = None,
    secrets: Mapping[str, str] | None = None,
    allows_address: Callable[[str], bool] | None = None,
    remote_dir: Path | None = None,
    report: Callable[[str, str], None] | None = None,
) -> EvalResult:
    """Sample `config.attempts` attempts of every task, verify them and say how it ended. Synchronous: runs its own event loop.

    tasks: None reads `config.data.path`. on_attempt: called in this thread with each attempt as it finishes.
    done: (task_id, attempt) pairs to leave out. With a run_dir, config.yaml and attempts.jsonl are kept there, and done=None
    leaves out what attempts.jsonl holds already, errors excepted: the same call again runs only what is missing.
    should_stop: asked a few times a second; attempts in flight get a few seconds to finish, the rest is left for a resume.
    client: samples from it instead of opening what the config names; one that is given stays open.
    secrets: "api_key" goes to the endpoint, "judge_api_key" to the judge, the rest to the backend; stored nowhere.
    allows_address: asked about every IP address that an endpoint or a judge leads to; None allows all.
    remote_dir: where a deployment that `config.serving` asks for is written down; None takes run_dir. report(level, message): is
    told what becomes of it.

    A foreseen failure (RecipeError) ends as `status="failed"` with a sentence; anything else is raised. What was done is kept.
    """
    from recipes.evals.runner import evaluate as run

    return run(
        config,
        tasks=tasks,
        run_dir=run_dir,
        done=done,
        on_attempt=on_attempt,
        should_stop=should_stop,
        client=client,
        secrets=secrets,
        allows_address=allows_address,
        remote_dir=remote_dir,
        report=report,
    )


def curate(attempts: Iterable[Any], settings: CurationSettings | None = None) -> Curated:
    """Filter tasks by what their attempts add up to, and make rows of the attempts selected. Nothing is written.

    attempts: as `recipes.rollouts.AttemptResult`; of several eval runs each with `run`, as `recipes.curation.PooledAttempt`.
    settings: None keeps every solved task and its correct attempts.

    Raises FilterError, ConfigError when the holdout leaves a side empty, DataError for a metric that no attempt has.
    """
    from recipes.curation.curating import curate as run

    return run(attempts, settings)
