"""Sample k attempts of tasks and verify them: the one function behind evals and reinforcement learning."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from recipes.chat import ChatClient, Reply
from recipes.errors import BackendError, DataError, ErrorKind, RecipeError, VerifierError
from recipes.types import Metrics, SamplingParams, Task, Turn
from recipes.verifiers import Verdict, Verifier

STOP_POLL_SECONDS = 0.25
_MOST_PER_CALL = 64


@dataclass(slots=True)
class AttemptResult:
    """One attempt at a task: a verdict, or `error` as a sentence. With an error, reward and is_correct are None: an attempt that
    could not be sampled or judged is never a wrong answer.

    attempt: from 0. messages: the whole conversation, the reply last (without it when sampling failed). error_kind: an ErrorKind.
    turns: token ids and log-probabilities, where the sampler gives them; not stored by evals.
    """

    task_id: str
    attempt: int
    reward: float | None = None
    is_correct: bool | None = None
    signals: Metrics = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    stop_reason: str | None = None
    error: str | None = None
    error_kind: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(slots=True)
class Tally:
    """What `sample` did: attempts with a verdict, attempts that ended in an error, and whether it was stopped before the end."""

    num_done: int = 0
    num_errors: int = 0
    is_stopped: bool = False


class Launched(Protocol):
    """What is begun at once: so many attempts."""

    @property
    def num(self) -> int: ...


GroupT = TypeVar("GroupT", bound=Launched)
WorkedT_contra = TypeVar("WorkedT_contra", bound=Launched, contravariant=True)
Keep = Callable[[Sequence["AttemptResult"]], None]


class Report(Protocol):
    """Told of attempts that finished, of several at once only where nothing was waited for between them."""

    def __call__(self, *results: AttemptResult) -> None: ...


class Work(Protocol[WorkedT_contra]):
    """What is done with one group: every attempt of it is reported. Raises what no attempt can carry: ConfigError, a BackendError
    that would only repeat, and whatever is a mistake of this program."""

    async def run(self, group: WorkedT_contra, report: Report) -> None: ...


class _Group(NamedTuple):
    """Attempts first … first + num − 1 of one task, asked for together."""

    task: Task
    first: int
    num: int


async def sample(
    tasks: Iterable[Task],
    client: ChatClient,
    verifier: Verifier,
    *,
    num_attempts: int,
    params: SamplingParams,
    on_attempt: Callable[[AttemptResult], None],
    keep: Keep | None = None,
    system_prompt: str | None = None,
    concurrency: int | None = None,
    done: Collection[tuple[str, int]] = (),
    should_stop: Callable[[], bool] | None = None,
    max_errors_in_a_row: int = 20,
    grace_seconds: float = 5.0,
) -> Tally:
    """`num_attempts` attempts of each task but those in `done`; on_attempt hears of each as soon as it is judged.
    keep: is given the same attempts just before, those that were judged in one go together.

    Attempt i of a task is drawn with a seed made of `params.seed`, the task's id and i, so that a later call which leaves out
    what is done draws the very attempts that are missing. concurrency: attempts in flight; None asks the client.
    should_stop: once true, nothing new begins, and what is still in flight after `grace_seconds` is abandoned, unreported.

    Raises BackendError after a refused key, a failure that would only repeat, or too many failures in a row (at least twice the
    concurrency), and ConfigError; everything that had finished has been reported by then.
    Other failures are attempts with `error`.
    """
    limit = concurrency or client.concurrency
    work = _Work(client, verifier, verifier.waits, params, system_prompt)
    return await Flight(work, limit, max(max_errors_in_a_row, 2 * limit), on_attempt, keep).run(
        _groups(tasks, num_attempts, min(limit, _MOST_PER_CALL), set(done)), should_stop, grace_seconds
    )


def seed_of(seed: int, task_id: str) -> int:
    """The seed of a task's attempt 0; attempt i adds i. 31 bits, as servers take no more."""
    digest = hashlib.sha256(f"{seed}:{task_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - 1 - 1024)


def _groups(tasks: Iterable[Task], num_attempts: int, most: int, done: Collection[tuple[str, int]]) -> Iterator[_Group]:
    """What is missing, in runs of neighbouring attempts: those share a prompt, and their seeds count up."""
    for task in tasks:
        first = None
        for attempt in range(num_attempts + 1):
            is_missing = attempt < num_attempts and (task.task_id, attempt) not in done
            if first is not None and (not is_missing or attempt - first == most):
                yield _Group(task, first, attempt - first)
                first = None
            if is_missing and first is None:
                first = attempt


class _Heard(NamedTuple):
    """A reply's message, and the verdict on it."""

    message: dict[str, Any]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with one group."""

    client: ChatClient
    verifier: Verifier
    verifier_waits: bool
    params: SamplingParams
    system_prompt: str | None

    async def run(self, group: _Group, report: Report) -> None:
        """Report each attempt of the group. Raises ConfigError, and whatever is a mistake of this program."""
        task = group.task
        messages = self._conversation(task)
        seed = None if self.params.seed is None else seed_of(self.params.seed, task.task_id) + group.first
        try:
            replies = await self.client.sample(messages, replace(self.params, seed=seed), group.num, tools=task.tools or None)
        except BackendError as error:
            self._report_failure(group, messages, error, error.kind, report)
            if would_repeat(error):
                raise
            return
        except DataError as error:
            self._report_failure(group, messages, error, ErrorKind.DATA, report)
            return
        if len(replies) != group.num:
            raise BackendError(f"{group.num} replies were asked for and {len(replies)} came.", permanent=True)
        judged: list[AttemptResult] = []
        heard: dict[str, _Heard] = {}
        for attempt, reply in enumerate(replies, start=group.first):
            judged.append(await self._judge(task, attempt, [*messages, reply.message], reply, heard))
            if self.verifier_waits:
                report(*judged)
                judged.clear()
        report(*judged)

    def _report_failure(
        self,
        group: _Group,
        messages: list[dict[str, Any]],
        error: RecipeError,
        kind: ErrorKind,
        report: Report,
    ) -> None:
        attempts = range(group.first, group.first + group.num)
        report(*[failed(group.task, attempt, messages, error, kind) for attempt in attempts])

    def _conversation(self, task: Task) -> list[dict[str, Any]]:
        if self.system_prompt is None or any(message.get("role") == "system" for message in task.messages):
            return task.messages
        return [{"role": "system", "content": self.system_prompt}, *task.messages]

    async def _judge(
        self, task: Task, attempt: int, messages: list[dict[str, Any]], reply: Reply, heard: dict[str, _Heard]
    ) -> AttemptResult:
        """heard: replies to this task whose verdict holds for their like, by their text."""
        known = heard.get(reply.text)
        if known is not None and known.message == reply.message:
            verdict = known.verdict
            info, signals = verdict.info.copy(), verdict.signals.copy()
            result = AttemptResult(task.task_id, attempt, float(verdict.reward), verdict.is_correct, signals, info, messages)
        else:
            try:
                verdict = await verdict_of(self.verifier, reply.text, task, messages)
            except BackendError as error:  # of a judge
                result = failed(task, attempt, messages, error, error.kind)
            except Exception as error:  # noqa: BLE001 - somebody's verifier: whatever it raises is an error of this attempt
                result = failed(task, attempt, messages, error, ErrorKind.VERIFIER)
            else:
                if self.verifier.is_pure:
                    heard[reply.text] = _Heard(reply.message, verdict)
                reward = float(verdict.reward)
                result = AttemptResult(task.task_id, attempt, reward, verdict.is_correct, verdict.signals, verdict.info, messages)
        result.num_prompt_tokens, result.num_tokens = reply.num_prompt_tokens, reply.num_tokens
        result.seconds, result.stop_reason = reply.seconds, reply.stop_reason
        result.turns = (reply.turn,) if reply.turn is not None else ()
        return result


async def verdict_of(verifier: Verifier, text: str, task: Task, messages: list[dict[str, Any]]) -> Verdict:
    """The verifier's verdict on a reply; `messages` is the whole conversation, the reply last. Raises VerifierError for what is
    none, and whatever the verifier raises."""
    if verifier.is_slow:
        found = await asyncio.to_thread(verifier.verify, text, task.answer, messages=messages)
    else:
        found = verifier.verify(text, task.answer, messages=messages)
    verdict = await found if not isinstance(found, Verdict) and inspect.isawaitable(found) else found
    if not isinstance(verdict, Verdict):
        raise VerifierError(f"The verifier gave {type(verdict).__name__} instead of a Verdict.")
    if not math.isfinite(verdict.reward):
        raise VerifierError(f"The verifier gave the reward {verdict.reward}, which is no number to count with.")
    return verdict


def would_repeat(error: BackendError) -> bool:
    """The next attempt would fail in the same way. A refused request is its own task's matter."""
    return error.permanent and error.kind is not ErrorKind.REQUEST


def failed(task: Task, attempt: int, messages: list[dict[str, Any]], error: Exception, kind: ErrorKind) -> AttemptResult:
    """An attempt without a verdict."""
    sentence = str(error) if isinstance(error, RecipeError) else f"{type(error).__name__}: {error}"
    if kind is ErrorKind.VERIFIER:
        sentence = f"The reply could not be judged: {sentence}"
    return AttemptResult(task.task_id, attempt, messages=messages, error=sentence, error_kind=str(kind))


class _Landed(NamedTuple):
    """A group has ended: so many attempts fewer are in flight. error: what no attempt could carry."""

    num: int
    error: BaseException | None


class Flight(Generic[GroupT]):
    """Keeps up to `limit` attempts in flight and reports them as they land."""

    def __init__(
        self,
        work: Work[GroupT],
        limit: int,
        most_errors: int,
        on_attempt: Callable[[AttemptResult], None],
        keep: Keep | None = None,
    ) -> None:
        self._work = work
        self._limit = limit
        self._most_errors = most_errors
        self._on_attempt = on_attempt
        self._keep = keep
        self._tally = Tally()
        self._landed: asyncio.Queue[_Landed | None] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()
        self._next: GroupT | None = None
        self._num_in_flight = 0
        self._errors_in_a_row = 0

    async def run(self, groups: Iterator[GroupT], should_stop: Callable[[], bool] | None, grace_seconds: float) -> Tally:
        """Raises BackendError and what the work raises; everything that had finished has been reported by then."""
        watch = self._start(self._watch(should_stop, grace_seconds), 0) if should_stop is not None else None
        self._next = next(groups, None)
        try:
            self._launch(groups)
            while self._num_in_flight:
                landed = await self._landed.get()
                if landed is None:
                    break  # the grace is over
                self._num_in_flight -= landed.num
                if landed.error is not None:
                    raise landed.error
                self._launch(groups)
        finally:
            ended = [*self._running, *([watch] if watch is not None else [])]
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
        return self._tally

    def _launch(self, groups: Iterator[GroupT]) -> None:
        while self._next is not None and not self._tally.is_stopped and self._num_in_flight + self._next.num <= self._limit:
            self._num_in_flight += self._next.num
            self._running.add(self._start(self._work.run(self._next, self._report), self._next.num))
            self._next = next(groups, None)

    def _start(self, work: Coroutine[Any, Any, None], num: int) -> asyncio.Task[None]:
        def land(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._landed.put_nowait(_Landed(num, None if task.cancelled() else task.exception()))

        task = asyncio.create_task(work)
        task.add_done_callback(land)
        return task

    def _report(self, *results: AttemptResult) -> None:
        """Called by the work itself: a queue between the two would cost as much as the verdict."""
        if self._keep is not None and results:
            self._keep(results)
        for result in results:
            self._count(result)

    def _count(self, result: AttemptResult) -> None:
        self._on_attempt(result)
        if result.error is None:
            self._tally.num_done += 1
            self._errors_in_a_row = 0
            return
        self._tally.num_errors += 1
        if (reason := self._reason_to_give_up(result)) is not None:
            self._landed.put_nowait(_Landed(0, reason))

    def _reason_to_give_up(self, result: AttemptResult) -> BackendError | None:
        """Where going on would only make more of the same failure."""
        kind = None if result.error_kind is None else ErrorKind(result.error_kind)
        if kind is ErrorKind.AUTH:
            return BackendError(str(result.error), permanent=True, kind=kind)
        # A refused request is this task's own matter (too long a prompt, say) once others have been served.
        if kind in (None, ErrorKind.DATA, ErrorKind.VERIFIER) or (kind is ErrorKind.REQUEST and self._tally.num_done):
            self._errors_in_a_row = 0
            return None
        self._errors_in_a_row += 1
        if self._errors_in_a_row < self._most_errors:
            return None
        return BackendError(
            f"Gave up after {self._errors_in_a_row} failed attempts in a row. The last: {result.error}",
            permanent=False,
            kind=kind or ErrorKind.BACKEND,
        )

    async def _watch(self, should_stop: Callable[[], bool], grace_seconds: float) -> None:
        while not should_stop():
            await asyncio.sleep(STOP_POLL_SECONDS)
        self._tally.is_stopped = True
        await asyncio.sleep(grace_seconds)
        self._landed.put_nowait(None)
