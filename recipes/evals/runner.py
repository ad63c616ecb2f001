"""From an EvalConfig to a finished eval: opens what is sampled from, runs what is missing, keeps what was done."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import orjson

from recipes.chat import ChatClient, LocalChat
from recipes.endpoint import EndpointChat
from recipes.errors import ConfigError, DataError, RecipeError
from recipes.eval_config import EvalConfig
from recipes.jsonl import read_jsonl
from recipes.registry import verifiers
from recipes.resources import ResourceLog
from recipes.rollouts import AttemptResult, Tally, sample
from recipes.rows import RowFormat, parse
from recipes.serving import Deployed, ServingStopped
from recipes.stores import write_atomically
from recipes.types import Task
from recipes.verifiers import Verifier, check_tasks
from recipes.weights import open_weights

CONFIG_FILE = "config.yaml"
ATTEMPTS_FILE = "attempts.jsonl"
_MUST_MATCH = ("model", "endpoint", "backend", "data", "verifier", "sampling")

AllowsAddress = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How an eval ended. num_attempts: tasks × k. num_done: attempts with a verdict, those left out as `done` included.
    num_errors: attempts of this call that ended in an error; they may be tried again. error: why it failed, as a sentence."""

    status: Literal["completed", "failed", "cancelled"]
    num_tasks: int
    num_attempts: int
    num_done: int
    num_errors: int
    error: str | None = None


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
    allows_address: AllowsAddress | None = None,
    remote_dir: Path | None = None,
    report: Callable[[str, str], None] | None = None,
) -> EvalResult:
    """See `recipes.evaluate`."""
    counts = _Counts(on_attempt)
    try:
        config.check()
        chosen = list(islice(tasks if tasks is not None else read_tasks(config), config.max_tasks))
        verifier = open_verifier(config)
        refuse_unfit(chosen, verifier)
        wanted = {(task.task_id, attempt) for task in chosen for attempt in range(config.attempts)}
        counts.num_tasks, counts.num_attempts = len(chosen), len(wanted)
        if run_dir is not None:
            recorded = counts.record_in(run_dir, config)
            done = recorded if done is None else done
        counts.done = wanted & set(done or ())
        verifier.open(secrets or {}, allows_address)
        work = partial(_run, config, chosen, verifier, report=report)
        if config.serving is None or client is not None:
            tally = asyncio.run(work(client, secrets or {}, allows_address, counts, should_stop))
        elif len(counts.done) == counts.num_attempts:
            tally = Tally()
            deployed_for(config, remote_dir or run_dir, secrets, allows_address, report, should_stop).remove_left()
        else:
            with deployed_for(config, remote_dir or run_dir, secrets, allows_address, report, should_stop) as deployed:
                chat, asked = deployed.client(), deployed.should_stop
                tally = asyncio.run(_until_closed(chat, work(chat, secrets or {}, allows_address, counts, asked)))
                if tally.is_stopped:
                    deployed.refuse_overdue()
    except ServingStopped:
        return counts.result("cancelled")
    except RecipeError as error:
        return counts.result("failed", str(error))
    finally:
        counts.close()
    is_complete = counts.num_done + counts.num_errors >= counts.num_attempts
    return counts.result("cancelled" if tally.is_stopped and not is_complete else "completed")


async def _run(
    config: EvalConfig,
    tasks: list[Task],
    verifier: Verifier,
    client: ChatClient | None,
    secrets: Mapping[str, str],
    allows_address: AllowsAddress | None,
    counts: _Counts,
    should_stop: Callable[[], bool] | None,
    *,
    report: Callable[[str, str], None] | None,
) -> Tally:
    if len(counts.done) == counts.num_attempts:
        return Tally()
    try:
        async with open_client(config, secrets, allows_address, report) if client is None else _kept_open(client) as opened:
            with _older_objects_kept():
                return await sample(
                    tasks,
                    opened,
                    verifier,
                    num_attempts=config.attempts,
                    params=config.sampling.params(),
                    on_attempt=counts.add,
                    keep=counts.keep,
                    system_prompt=config.sampling.system_prompt,
                    concurrency=config.concurrency,
                    done=counts.done,
                    should_stop=should_stop,
                    max_errors_in_a_row=config.max_errors_in_a_row,
                )
    finally:
        await verifier.close()


@contextmanager
def _older_objects_kept() -> Iterator[None]:
    """The garbage collector passes over what is there already. With PyTorch and a model that is half a million objects, which a
    full collection looks at for 0.4 s, every ten thousand attempts or so. A process that has frozen its own is left alone."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def deployed_for(
    config: EvalConfig,
    remote_dir: Path | None,
    secrets: Mapping[str, str] | None,
    allows_address: AllowsAddress | None,
    report: Callable[[str, str], None] | None,
    should_stop: Callable[[], bool] | None,
) -> Deployed:
    """The deployment that the eval asks. Raises ConfigError where nobody would remember it."""
    if remote_dir is None:
        raise ConfigError("A deployment is written down before it is made: give a folder (run_dir) for that.", path=("serving",))
    return Deployed(
        config,
        secrets=secrets or {},
        log=ResourceLog(remote_dir),
        report=report or (lambda level, message: None),
        should_stop=should_stop or (lambda: False),
        allows_address=allows_address,
    )


async def _until_closed(client: ChatClient, work: Awaitable[Tally]) -> Tally:
    try:
        return await work
    finally:
        await client.close()


@asynccontextmanager
async def _kept_open(client: ChatClient) -> AsyncIterator[ChatClient]:
    yield client


@asynccontextmanager
async def open_client(
    config: EvalConfig,
    secrets: Mapping[str, str],
    allows_address: AllowsAddress | None = None,
    report: Callable[[str, str], None] | None = None,
) -> AsyncIterator[ChatClient]:
    """What the config samples from, closed at the end. Raises ConfigError, CheckpointError, BackendError."""
    if config.endpoint is not None:
        endpoint = EndpointChat(
            config.endpoint,
            api_key=secrets.get("api_key"),
            concurrency=config.concurrency or 32,
            allows_address=allows_address,
            report=report,
        )
        try:
            yield endpoint
        finally:
            await endpoint.close()
        return
    assert config.model is not None
    checkpoint = config.model.checkpoint
    async with open_weights(config.backend, config.model.name, checkpoint, secrets=secrets) as opened:
        # An untouched model needs no adapters merged: its frozen base is what there is to sample from.
        client = await (opened.reference_sampling_client() if checkpoint is None else opened.snapshot_sampling_client())
        yield LocalChat(client, opened.get_tokenizer())


def open_verifier(config: EvalConfig) -> Verifier:
    """The configured verifier. Raises ConfigError with the path of a wrong setting."""
    config.verifier_config()
    verifier: Verifier = verifiers.get(config.verifier.kind)(**config.verifier.params)
    return verifier


def read_tasks(config: EvalConfig) -> list[Task]:
    """The tasks in `config.data.path`. Raises DataError with the line, ConfigError for a dashboard's dataset."""
    if config.data.path is None:
        raise ConfigError(
            f"The dataset {config.data.dataset!r} is known to the dashboard only: give tasks, or data.path.",
            path=("data", "dataset"),
        )
    path = Path(config.data.path)
    if not path.is_file():
        raise DataError(f"There is no file {config.data.path} to read tasks from.")
    return [Task.of(parse(row, RowFormat.TASK, line=line)) for line, row in read_jsonl(path)]


def refuse_unfit(tasks: list[Task], verifier: Verifier) -> None:
    """Raises DataError when there are no tasks, two have one id, or the verifier cannot judge all of them."""
    if not tasks:
        raise DataError("The benchmark has no tasks.")
    seen: set[str] = set()
    for task in tasks:
        if task.task_id in seen:
            raise DataError(f"Two tasks have the id {task.task_id!r}: attempts are told apart by it.")
        seen.add(task.task_id)
    if misfits := check_tasks(tasks, verifier):
        first = misfits[0]
        raise DataError(
            f"The verifier {verifier.name} cannot judge {len(misfits):,} of {len(tasks):,} tasks. "
            f"The first is task {first.position:,}, {first.task_id!r}: {first.message}."
        )


class _Counts:
    """Counts what is reported and keeps it in the run's folder."""

    def __init__(self, on_attempt: Callable[[AttemptResult], None] | None) -> None:
        self._on_attempt = on_attempt
        self._file: Any = None
        self.num_tasks = self.num_attempts = self.num_errors = self._num_new = 0
        self.done: set[tuple[str, int]] = set()

    @property
    def num_done(self) -> int:
        return len(self.done) + self._num_new

    def add(self, result: AttemptResult) -> None:
        if result.error is None:
            self._num_new += 1
        else:
            self.num_errors += 1
        if self._on_attempt is not None:
            self._on_attempt(result)

    def keep(self, results: Sequence[AttemptResult]) -> None:
        """Whole lines, in one write: what was judged together is in the file before any of it is counted."""
        if self._file is not None:
            self._file.write(b"".join(map(attempt_line, results)))

    def record_in(self, run_dir: Path, config: EvalConfig) -> set[tuple[str, int]]:
        """Open the folder for writing; gives the attempts that it holds a verdict of. Raises ConfigError for another eval's."""
        run_dir.mkdir(parents=True, exist_ok=True)
        kept = run_dir / CONFIG_FILE
        if kept.is_file():
            former, now = EvalConfig.from_yaml(kept.read_text(encoding="utf-8")).model_dump(), config.model_dump()
            if changed := [key for key in _MUST_MATCH if former[key] != now[key]]:
                raise ConfigError(
                    f"{run_dir} holds another eval: {' and '.join(changed)} differ. Give another folder.", path=(changed[0],)
                )
        write_atomically(kept, config.to_yaml())
        attempts = run_dir / ATTEMPTS_FILE
        recorded = _verdicts_in(attempts)
        self._file = attempts.open("ab", buffering=0)
        return recorded

    def result(self, status: Literal["completed", "failed", "cancelled"], error: str | None = None) -> EvalResult:
        return EvalResult(status, self.num_tasks, self.num_attempts, self.num_done, self.num_errors, error)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def attempt_row(result: AttemptResult) -> dict[str, Any]:
    """A line of attempts.jsonl: the verdict, or the error, with the conversation."""
    row = {
        "task_id": result.task_id,
        "attempt": result.attempt,
        "reward": result.reward,
        "is_correct": result.is_correct,
        "signals": result.signals,
        "info": result.info,
        "messages": result.messages,
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_tokens": result.num_tokens,
        "seconds": round(result.seconds, 6),
        "stop_reason": result.stop_reason,
    }
    if result.error is not None:
        row |= {"error": result.error, "error_kind": result.error_kind}
    return row


def attempt_line(result: AttemptResult) -> bytes:
    """The row as a line of JSON. Numbers that are not finite are null."""
    row = attempt_row(result)
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, or a number beyond 64 bits
        return (json.dumps(row, allow_nan=False) + "\n").encode()


def _verdicts_in(path: Path) -> set[tuple[str, int]]:
    """Attempts with a verdict. A last line without its end, from a process that was killed while it wrote, is cut off."""
    found: set[tuple[str, int]] = set()
    if not path.exists():
        return found
    with path.open("rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            row = json.loads(line)
            if row.get("error") is None:
                found.add((row["task_id"], row["attempt"]))
    return found
