"""What the Fireworks of the tests answers for a model that learns."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.fireworks_server import ACCOUNT, FireworksServer


class Learner:
    """Right in one of three attempts at a prompt as it is, in two after a job, and ever after two."""

    def __init__(self, server: FireworksServer) -> None:
        self.server, self.asked = server, Counter[str]()
        server.serving.reply, server.serving.tuned_reply = self._untrained, self._trained

    def _untrained(self, messages: list[dict[str, Any]]) -> str:
        return self._said(messages, right=1)

    def _trained(self, model: str, messages: list[dict[str, Any]]) -> str:
        made = [name for name in self.server.models if name.startswith(f"accounts/{ACCOUNT}/")]
        return self._said(messages, right=2 + made.index(model))

    def _said(self, messages: list[dict[str, Any]], *, right: int) -> str:
        prompt = messages[-1]["content"]
        self.asked[prompt] += 1
        return "e" if self.asked[prompt] % 3 < right else "no"
