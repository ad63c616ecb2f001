"""What several attempts at a task say alike is decoded and judged once, and belongs to each of them all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from recipes.chat import LocalChat, Reply
from recipes.errors import VerifierError
from recipes.rendering import load_tokenizer
from recipes.types import SampledSequence, SampleResult, SamplingParams, StopReason
from recipes.verifiers import ExactMatch, Verdict
from tests.recipes.test_rollouts import Custom, Fake, run


@pytest.mark.parametrize("pure", [True, False])
def test_only_a_pure_verifier_is_spared_a_reply_that_it_has_judged(pure: bool) -> None:
    class Counting(Custom):
        is_pure = pure

        def verify(self, completion: str, expected: Any, *, messages: Sequence[Any] = ()) -> Verdict:
            asked.append((messages[0]["content"], completion, messages[-1].get("reasoning")))
            if completion == "no verdict":
                raise VerifierError("cannot say")
            return Verdict.of(completion == "yes", found=completion, like=messages[-1].get("reasoning"))

    class Repeating(Fake):
        async def sample(self, *args: Any, **options: Any) -> list[Reply]:
            said = [("yes", None), ("no", None), ("yes", None), ("yes", "hm"), ("no verdict", None), ("no verdict", None)]
            texts = [{"role": "assistant", "content": text} | ({"reasoning": why} if why else {}) for text, why in said]
            return [Reply(text["content"], text, "stop", 3, 2, 0.1) for text in texts]

    asked: list[tuple[str, str, str | None]] = []
    results, _ = run(Repeating(), count=2, k=6, verifier=Counting(lambda text: Verdict.of(False)))
    every = [("yes", None), ("no", None), ("yes", None), ("yes", "hm"), ("no verdict", None), ("no verdict", None)]
    once = [*every[:2], *every[3:]]
    assert asked == [(f"q{task}", text, why) for task in range(2) for text, why in (once if pure else every)]
    assert [result.reward for result in results] == [1.0, 0.0, 1.0, 1.0, None, None] * 2
    assert [result.info.get("like") for result in results] == [None, None, None, "hm", None, None] * 2
    results[0].info["found"] = "changed by who was told"
    assert results[2].info["found"] == "yes"
    assert len({id(result.messages) for result in results}) == 12


def test_whoever_verifies_in_a_way_of_his_own_says_anew_whether_it_is_pure() -> None:
    class Stricter(ExactMatch):
        def verify(self, completion: str, expected: Any, *, messages: Sequence[Any] = ()) -> Verdict:
            return super().verify(completion, expected, messages=messages)

    class Renamed(ExactMatch):
        summary = "As ExactMatch, by another name."

    assert (ExactMatch.is_pure, Renamed.is_pure, Stricter.is_pure) == (True, True, False)


def test_replies_of_the_same_tokens_have_their_own_message_and_turn() -> None:
    tokenizer = load_tokenizer("starter")

    class Parrot:
        async def sample_async(self, *, prompt: Sequence[int], params: SamplingParams, num_samples: int = 1) -> SampleResult:
            said = [tokenizer.encode(text, add_special_tokens=False) for text in ("Answer: 7", "Answer: 8", "Answer: 7")]
            reasons = [StopReason.STOP, StopReason.LENGTH, StopReason.STOP]
            return SampleResult(
                [SampledSequence(ids, [-float(place)] * len(ids), reasons[place]) for place, ids in enumerate(said)]
            )

    parrot: Any = Parrot()
    replies = asyncio.run(LocalChat(parrot, tokenizer).sample([{"role": "user", "content": "3 + 4"}], SamplingParams(), 3))
    assert [reply.text for reply in replies] == ["Answer: 7", "Answer: 8", "Answer: 7"]
    assert [reply.stop_reason for reply in replies] == ["stop", "length", "stop"]
    assert [reply.turn.logprobs[0] for reply in replies if reply.turn is not None] == [0.0, -1.0, -2.0]
    assert len({id(reply.message) for reply in replies}) == 3
