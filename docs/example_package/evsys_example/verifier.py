"""Right is a reply that contains the answer and is no longer than it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recipes.config import Settings, knob
from recipes.verifiers import Message, Verdict, Verifier, accepted_texts


class WithinWords(Verifier):
    class Config(Settings):
        max_words: int = knob(20, "A longer reply is wrong, whatever it says.", unit="words", ge=1, le=10_000, essential=True)

    name = "within_words"
    summary = "The reply contains the answer and keeps to a number of words."
    is_pure = True  # equal replies to a task are judged once

    def verify(self, completion: str, expected: Any, *, messages: Sequence[Message] = ()) -> Verdict:
        num_words = len(completion.split())
        is_said = any(text.strip().lower() in completion.lower() for text in accepted_texts(expected))
        return Verdict.of(is_said and num_words <= self.cfg.max_words, num_words=num_words)
