"""Our Tinker-compatible server as what speaks behind every dedicated trainer of the Fireworks of the tests."""

from __future__ import annotations

import json
import re
from typing import Any

from recipes.backends.fireworks.steps import POOL
from tests.fireworks_wire import ACCOUNT
from tests.recipes.backends.fireworks.pool import Pool

PROXY = f"/training/v1/rlorTrainerJobs/{ACCOUNT}/"
CROSS_JOB = "cross_job://"


class TrainerProxy(Pool):
    """States and snapshots are called as a trainer calls them: by the name alone, or across jobs by trainer and name.
    loaded: what was loaded, as it was asked for. is_away: every trainer's machine has vanished."""

    def __init__(self, app: Any) -> None:
        self._kept: dict[tuple[str, str], str] = {}
        super().__init__(app)

    def renew(self) -> None:
        super().renew()
        self.loaded: list[str] = []
        self.is_away = False

    def forget(self) -> None:
        self._kept.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PROXY):
            await super().__call__(scope, receive, send)
            return
        trainer, _, rest = scope["path"].removeprefix(PROXY).partition("/")
        asked = await self._whole(receive)
        with self.control.lock:
            is_up = self._is_up(trainer, rest)
        if not is_up:
            start = {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]}
            return await self._send(send, start, b'{"message": "no such trainer"}')
        path = f"{POOL}/{rest}"
        inside = {**scope, "path": path, "raw_path": path.encode()}
        start, body = await self._inside(inside, self._our_names(trainer, rest, asked))
        named = self._theirs(trainer)
        body = re.sub(rb"tinker://[0-9a-f]{32}:train:\d+/(sampler_)?weights/([a-z0-9-]+)", named, body)
        await self._send(send, start, body)

    def _is_up(self, trainer: str, rest: str) -> bool:
        if rest.endswith("/healthz"):
            return self.control.trainers.is_healthy(trainer)
        found = self.control.trainers.trainers.get(trainer)
        return found is not None and found.state == "RUNNING" and not self.is_away

    def _our_names(self, trainer: str, rest: str, asked: bytes) -> bytes:
        if not rest.endswith("/load_weights"):
            return asked
        request = json.loads(asked)
        path = request["path"]
        self.loaded.append(path)
        source, _, name = path.removeprefix(CROSS_JOB).partition("/") if path.startswith(CROSS_JOB) else (trainer, "", path)
        request["path"] = self._kept.get((source, name), f"tinker://{'0' * 32}:train:0/weights/{name}")
        return json.dumps(request).encode()

    def _theirs(self, trainer: str) -> Any:
        def named(found: re.Match[bytes]) -> bytes:
            is_sampler, name = found[1], found[2].decode()
            if is_sampler and name not in (saved := self.control.trainers.trainers[trainer].saved):
                saved.append(name)
            elif not is_sampler:
                self._kept[trainer, name] = found[0].decode()
            return found[2]

        return named
