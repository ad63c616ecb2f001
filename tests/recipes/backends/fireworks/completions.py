"""Completions of the pool, token ids in and out, said by our Tinker-compatible server: what Fireworks' sampler reads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fireworks_server import MODEL

PATH = "/inference/v1/completions"
Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Completions:
    """ask(path, values): what our server answers. hides: what is left out of every row, as by a lesser server.
    is_mute: nothing is answered; broken_off: whoever asked has gone."""

    ask: Ask

    def __init__(self) -> None:
        self._one_by_one = asyncio.Lock()
        self._samplers: dict[tuple[str, str], str] = {}
        self.asked: list[dict[str, Any]] = []
        self.hides: set[str] = set()
        self.is_mute = False
        self.broken_off = threading.Event()

    async def say(self, session: str, snapshot: str, body: dict[str, Any]) -> bytes:
        """A stream of events. snapshot: a tinker:// address, empty for the base."""
        self.asked.append(body)
        prompt, last, topk = body["prompt"], int(body.get("echo_last", 0)), int(body.get("top_logprobs", 0))
        values = {
            "sampling_session_id": await self._sampler(session, snapshot),
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt}]},
            "sampling_params": self._params(body),
            "prompt_logprobs": bool(last),
            "topk_prompt_logprobs": topk if last else 0,
        }
        promise, found = await self.ask("asample", values), {"type": "try_again"}
        while found.get("type") == "try_again":
            found = await self.ask("retrieve_future", {"request_id": promise["request_id"]})
        (said,) = found["sequences"]
        scores, likeliest = found["prompt_logprobs"] or [], found["topk_prompt_logprobs"] or [None] * len(prompt)
        rows = [
            self._row(token, score, None, best)
            for token, score, best in list(zip(prompt, scores, likeliest, strict=False))[len(prompt) - last :]
            if last
        ]
        pairs = zip(said["tokens"], said["logprobs"], strict=True)
        rows += [self._row(token, score, score, [(token, score)]) for token, score in pairs]
        ids = [*prompt[len(prompt) - last :], *said["tokens"]] if last else said["tokens"]
        choice = {"index": 0, "text": "…", "finish_reason": said["stop_reason"], "logprobs": {"content": rows}}
        choice["raw_output"] = {"completion_token_ids": ids, "prompt_token_ids": prompt}
        return f"data: {json.dumps({'id': 'c', 'choices': [choice]})}\n\ndata: [DONE]\n\n".encode()

    def _row(self, token: int, logprob: float, sampled: float | None, best: Any) -> dict[str, Any]:
        top = [{"token": "…", "token_id": each, "logprob": score} for each, score in best or ()]
        row = {"token": "…", "token_id": token, "logprob": logprob, "sampling_logprob": sampled, "top_logprobs": top}
        return {key: value for key, value in row.items() if key not in self.hides}

    def _params(self, body: dict[str, Any]) -> dict[str, Any]:
        taken = ("max_tokens", "temperature", "top_p", "seed", "stop")
        found = {name: body[name] for name in taken if name in body}
        return found | ({"top_k": body["top_k"]} if body.get("top_k") else {})

    async def _sampler(self, session: str, snapshot: str) -> str:
        async with self._one_by_one:
            if (session, snapshot) not in self._samplers:
                weights = {"model_path": snapshot} if snapshot else {"base_model": MODEL}
                values = {"session_id": session, "sampling_session_seq_id": len(self._samplers), **weights}
                made = await self.ask("create_sampling_session", values)
                self._samplers[session, snapshot] = made["sampling_session_id"]
        return self._samplers[session, snapshot]
