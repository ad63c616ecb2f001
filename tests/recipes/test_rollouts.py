"""k attempts per task: which are asked for, what is reported, and how it ends when things go wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from recipes.chat import Reply
from recipes.config import Settings
from recipes.errors import BackendError, ConfigError, DataError, ErrorKind, VerifierError
from recipes.rollouts import AttemptResult, Tally, sample, seed_of
from recipes.types import SamplingParams, Task
from recipes.verifiers import Numeric, Verdict, Verifier


class Fake:
    """A chat client that says its seed, unless told to do something else."""

    concurrency = 8

    def __init__(self, act: Callable[[str, int], None] = lambda text, number: None, *, seconds: float = 0.0) -> None:
        self.act = act
        self.seconds = seconds
        self.calls: list[tuple[str, int | None, int]] = []
        self.in_flight = self.most_in_flight = 0

    async def sample(
        self, messages: Sequence[Any], params: SamplingParams, num_samples: int = 1, *, tools: Any = None
    ) -> list[Reply]:
        text = messages[-1]["content"]
        self.calls.append((text, params.seed, num_samples))
        number = len(self.calls)
        self.in_flight += num_samples
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            self.act(text, number)
        finally:
            self.in_flight -= num_samples
        seeds = [None if params.seed is None else params.seed + i for i in range(num_samples)]
        return [Reply(f"{seed}", {"role": "assistant", "content": f"{seed}"}, "stop", 3, 2, 0.1) for seed in seeds]

    async def close(self) -> None: ...


class Custom(Verifier):
    """Judges by a function."""

    name = "custom"
    needs_answer = False

    def __init__(self, judge: Callable[[str], Any]) -> None:
        super().__init__()
        self.judge = judge

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Any] = ()) -> Verdict:
        found: Verdict = self.judge(completion)
        return found


RIGHT = Custom(lambda text: Verdict.of(True))


def tasks(count: int) -> list[Task]:
    return [Task(f"t{i}", [{"role": "user", "content": f"q{i}"}], answer=i) for i in range(count)]


def run(
    client: Fake, *, count: int = 3, k: int = 4, verifier: Verifier = RIGHT, seed: int | None = 1, **options: Any
) -> tuple[list[AttemptResult], Tally]:
    results: list[AttemptResult] = []
    options = {"on_attempt": results.append} | options
    tally = asyncio.run(sample(tasks(count), client, verifier, num_attempts=k, params=SamplingParams(seed=seed), **options))
    return results, tally


def names(results: list[AttemptResult]) -> list[tuple[str, int]]:
    return sorted((result.task_id, result.attempt) for result in results)


def test_every_attempt_of_every_task_is_reported_once_with_its_conversation() -> None:
    results, tally = run(Fake(), system_prompt="Be brief.")
    assert names(results) == [(f"t{i}", attempt) for i in range(3) for attempt in range(4)]
    assert tally == Tally(num_done=12)
    assert [message["role"] for message in results[0].messages] == ["system", "user", "assistant"]
    assert (results[0].reward, results[0].is_correct, results[0].num_tokens, results[0].stop_reason) == (1.0, True, 2, "stop")


def test_a_system_message_of_the_task_stays_the_only_one() -> None:
    task = Task("a", [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}])
    found: list[AttemptResult] = []
    asyncio.run(
        sample([task], Fake(), RIGHT, num_attempts=1, params=SamplingParams(), on_attempt=found.append, system_prompt="other")
    )
    assert [message["content"] for message in found[0].messages] == ["own", "q", "None"]


def test_a_resume_draws_the_very_attempts_that_are_missing() -> None:
    first, _ = run(Fake(), k=6)
    said = {(result.task_id, result.attempt): result.messages for result in first}
    done = {key for number, key in enumerate(sorted(said)) if number % 3}
    client = Fake()
    second, tally = run(client, k=6, done=done)
    assert names(second) == sorted(said.keys() - done)
    assert tally.num_done == len(said) - len(done)
    assert all(result.messages == said[result.task_id, result.attempt] for result in second)
    assert len({str(messages) for messages in said.values()}) == len(said), "no two attempts have one seed"


def test_nothing_is_asked_when_all_is_done() -> None:
    client = Fake()
    assert run(client, count=2, k=2, done={(f"t{i}", a) for i in range(2) for a in range(2)}) == ([], Tally())
    assert client.calls == []


def test_seeds_fit_into_31_bits_and_none_stays_none() -> None:
    assert all(0 <= seed_of(seed, f"täsk {seed}") + 1023 < 2**31 for seed in range(200))
    client = Fake()
    run(client, count=1, seed=None)
    assert client.calls[0][1] is None


def test_no_more_attempts_are_in_flight_than_allowed() -> None:
    client = Fake(seconds=0.002)
    run(client, count=12, k=5, concurrency=7)
    assert client.most_in_flight <= 7
    assert max(num for _, _, num in client.calls) == 5
    wide = Fake()
    run(wide, count=1, k=200, concurrency=1000)
    assert [num for _, _, num in wide.calls] == [64, 64, 64, 8]


@pytest.mark.parametrize(
    "judge",
    [
        lambda text: 1 / 0,
        lambda text: (_ for _ in ()).throw(VerifierError("cannot tell")),
        lambda text: 1.0,
        lambda text: Verdict(float("nan"), False),
    ],
)
def test_a_verifier_that_raises_or_gives_no_verdict_is_an_error_never_a_wrong_answer(judge: Callable[[str], Any]) -> None:
    results, tally = run(Fake(), count=20, verifier=Custom(judge), max_errors_in_a_row=1)
    assert tally == Tally(num_errors=80), "it is no reason to give up"
    for result in results:
        assert (result.reward, result.is_correct, result.error_kind) == (None, None, "verifier")
        assert str(result.error).startswith("The reply could not be judged: ")
        assert result.messages[-1]["role"] == "assistant", "the reply is kept"


def test_an_answer_that_cannot_be_compared_is_an_error_of_its_own_task_alone() -> None:
    mixed = [Task("good", [{"role": "user", "content": "q"}], 5), Task("bad", [{"role": "user", "content": "q"}], "five")]
    found: list[AttemptResult] = []
    asyncio.run(sample(mixed, Fake(), Numeric(), num_attempts=2, params=SamplingParams(seed=1), on_attempt=found.append))
    assert {(result.task_id, result.error is None) for result in found} == {("good", True), ("bad", False)}


def test_infrastructure_errors_are_reported_with_their_cause_and_the_rest_goes_on() -> None:
    def fail_one(text: str, number: int) -> None:
        if text == "q1":
            raise BackendError("The server failed.", permanent=False, kind=ErrorKind.SERVER)
        if text == "q2":
            raise DataError("The prompt is too long.")

    results, tally = run(Fake(fail_one), count=4)
    assert tally == Tally(num_done=8, num_errors=8)
    by_task = {result.task_id: (result.error_kind, result.error, result.is_correct) for result in results}
    assert by_task["t1"] == ("server", "The server failed.", None)
    assert by_task["t2"] == ("data", "The prompt is too long.", None)
    assert by_task["t0"] == (None, None, True)


def test_a_refused_key_ends_it_at_once_and_what_was_done_is_reported() -> None:
    def refuse_later(text: str, number: int) -> None:
        if number > 3:
            raise BackendError("The endpoint refuses the key.", permanent=True, kind=ErrorKind.AUTH)

    client = Fake(refuse_later)
    results: list[AttemptResult] = []
    with pytest.raises(BackendError, match="refuses the key") as caught:
        run(client, count=1000, k=4, on_attempt=results.append)
    assert caught.value.kind is ErrorKind.AUTH
    assert len(client.calls) < 10
    assert sum(result.error is None for result in results) == 12


def test_it_gives_up_after_many_failures_in_a_row_but_not_after_scattered_ones() -> None:
    def down(text: str, number: int) -> None:
        raise BackendError("No connection.", permanent=False, kind=ErrorKind.CONNECTION)

    def every_second(text: str, number: int) -> None:
        if number % 2:
            down(text, number)

    client = Fake(down)
    with pytest.raises(BackendError, match="Gave up after 20 failed attempts in a row. The last: No connection."):
        run(client, count=1000)
    assert len(client.calls) < 12
    _, tally = run(Fake(every_second), count=40)
    assert tally == Tally(num_done=80, num_errors=80)


def test_a_failure_that_would_only_repeat_and_a_wrong_setting_end_it() -> None:
    def full(text: str, number: int) -> None:
        raise BackendError("The model does not fit.", permanent=True)

    def wrong(text: str, number: int) -> None:
        raise ConfigError("top_p must be below 1.")

    with pytest.raises(BackendError, match="does not fit"):
        run(Fake(full), count=500)
    with pytest.raises(ConfigError, match="top_p"):
        run(Fake(wrong), count=500)


def test_a_mistake_in_the_program_or_in_the_listener_is_raised_not_swallowed() -> None:
    def broken(text: str, number: int) -> None:
        raise ZeroDivisionError

    def refuse(result: AttemptResult) -> None:
        raise OSError("disk full")

    with pytest.raises(ZeroDivisionError):
        run(Fake(broken))
    with pytest.raises(OSError, match="disk full"):
        run(Fake(), on_attempt=refuse)


def test_a_stop_begins_nothing_new_lets_the_quick_finish_and_abandons_the_slow() -> None:
    results: list[AttemptResult] = []
    quick = Fake(seconds=0.01)
    _, tally = run(quick, count=5000, should_stop=lambda: len(results) >= 8, on_attempt=results.append, grace_seconds=60)
    assert tally.is_stopped
    assert 8 <= tally.num_done == len(results) < 5000
    assert len(results) == sum(num for _, _, num in quick.calls), "what was in flight has finished"

    began = time.perf_counter()
    slow = Fake(seconds=60)
    found, tally = run(slow, should_stop=lambda: True, grace_seconds=0.1)
    assert (found, tally.is_stopped, slow.in_flight) == ([], True, 0)
    assert time.perf_counter() - began < 30


def test_a_question_about_stopping_that_fails_is_raised() -> None:
    def fail() -> bool:
        raise OSError("database gone")

    with pytest.raises(OSError, match="database gone"):
        run(Fake(seconds=5), should_stop=fail)


def test_a_slow_verifier_runs_beside_the_event_loop() -> None:
    class Slow(Custom):
        is_slow = True

    def judge(text: str) -> Verdict:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return Verdict.of(False)

    results, _ = run(Fake(), verifier=Slow(judge))
    assert [result.error for result in results] == [None] * 12


@pytest.mark.parametrize(("waits", "sizes"), [(False, [4, 4, 4]), (True, [1] * 12)])
def test_attempts_are_kept_before_they_are_told_and_together_only_where_nothing_is_waited_for(
    waits: bool, sizes: list[int]
) -> None:
    class Waiting(Custom):
        is_slow = waits

    kept: list[AttemptResult] = []
    told: list[AttemptResult] = []
    found: list[int] = []

    def keep(results: Sequence[AttemptResult]) -> None:
        found.append(len(results))
        kept.extend(results)

    def tell(result: AttemptResult) -> None:
        assert any(result is other for other in kept)
        told.append(result)

    run(Fake(), verifier=Waiting(lambda text: Verdict.of(True)), keep=keep, on_attempt=tell)
    assert found == sizes
    assert told == kept


def test_a_verifier_needs_no_settings() -> None:
    assert Custom.Config is Settings
