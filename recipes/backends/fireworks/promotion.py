"""A checkpoint of a session made a model of the account: what a deployment can serve, and what a job can begin from.

1. Closing the session takes its checkpoints with it, so that a model is made when the checkpoint is saved, or never.
2. Its name is new for every try and written down before it is asked for (`recipes.resources`). Whoever goes on after a killed
   worker removes what that one had begun, and so does the reaper: what no checkpoint names is nobody's. One that a checkpoint
   names is the owner's, and neither removes it.
3. A fresh checkpoint takes the service a while to list, and a model a while to be there. Both are waited for, not for ever.

The base SDK asks for it, at the path and with the body of the training SDK's `promote_session_checkpoint`: that one blocks for
five minutes in an outage, hears of no stop, and raises sentences without a status.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fireworks

from recipes.backends.fireworks.account import FireworksAccount
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.failures import failures, short, words_of
from recipes.errors import BackendError, ErrorKind, RecipeError
from recipes.patience import SHORTEST_PAUSE, Patience
from recipes.resources import MODEL, Resource, ResourceLog, fresh_name

POLL_SECONDS = 5.0
"""The longest pause between two looks."""
LISTED_SECONDS = 120.0
READY_SECONDS = 600.0
ORDER_SECONDS = 300.0
"""What the vendor's SDK gives the one request that copies weights."""


class FireworksModels(FireworksAccount):
    """Models of the account, made of what a session has saved. All raise BackendError."""

    def rows(self, parent: str) -> list[dict[str, Any]]:
        with failures("the checkpoints that were saved", self.place):
            return [row for row in self._checkpoint_rows(parent) if isinstance(row, dict)]

    def order(self, checkpoint: str, model: str, base_model: str) -> str:
        """The operation that makes it, empty where it is made at once. Heard before, and its answer lost, is fine: the name is
        nobody else's."""
        asked, body = _request(checkpoint, {"output_model": model, "base_model": base_model})
        wait = max(ORDER_SECONDS, self._timeout)
        with failures("to make a model of a checkpoint", self.place):
            try:
                answer: Any = self._client.post(
                    f"/v1/{asked}:promote", cast_to=object, body=body, options={"timeout": wait, "max_retries": 0}
                )
            except fireworks.ConflictError:
                return ""
            return str((answer.get("operation") or {}).get("name") or "")

    def is_ready(self, model_id: str) -> bool:
        with failures("the model that is made", self.place):
            found = self._unless_missing(lambda: self._client.models.get(model_id))
        return found is not None and found.state != "UPLOADING"

    def refusal(self, operation: str) -> str:
        """Why it failed; empty while it has not."""
        with failures("how the model is coming along", self.place):
            found: Any = self._unless_missing(lambda: self._client.get(f"/v1/{operation}", cast_to=object))
            error = (found or {}).get("error")
            return (words_of(error) or short(str(error))) if error else ""

    def delete(self, model_id: str) -> None:
        with failures(f"to delete the model {model_id}", self.place):
            self._delete_model(model_id)


class Abandoned(Exception):
    """Nobody waits for it any more."""


class Promotion:
    """Makes models for one run. Its methods block; `abandon` ends them from another thread. tell(level, sentence) is called in
    the thread that waits."""

    def __init__(
        self, settings: FireworksConfig, key: str, *, base_model: str, run_dir: Path, tell: Callable[[str, str], None]
    ) -> None:
        self._settings, self._key, self._base_model = settings, key, base_model
        self._log, self._run = ResourceLog(run_dir), run_dir.name
        self._tell = tell
        self._abandoned = threading.Event()
        self._patience = Patience(
            wait=lambda seconds, error: self._pause(seconds),
            tell=tell,
            outage_seconds=settings.outage_seconds,
            poll_seconds=POLL_SECONDS,
        )
        self._models: FireworksModels | None = None
        for resource in self._log.left():
            if resource.kind == MODEL:
                self._log.take_over(resource)

    def abandon(self) -> None:
        self._abandoned.set()

    def close(self) -> None:
        self._log.hand_over()
        if self._models is not None:
            self._models.close()

    def make(self, saved_below: str, snapshot: str, label: str) -> str:
        """The model's resource name. saved_below: the session or the trainer that lists the checkpoint. snapshot: what the
        service called it. label: what we call it. Raises BackendError, ConfigError, Abandoned."""
        if self._models is None:
            self._models = self._patience.ask(partial(FireworksModels, self._settings, self._key))
        models = self._models
        self._remove_left(models)
        checkpoint = self._listed(models, f"accounts/{models.account}/{saved_below}", snapshot.rpartition("/")[2])
        resource = Resource(MODEL, fresh_name(self._run, label), models.account)
        model = f"accounts/{models.account}/models/{resource.name}"
        self._log.plan(resource)
        operation = self._patience.ask(partial(models.order, checkpoint, model, self._base_model))
        self._await(models, resource.name, operation)
        return model

    def _remove_left(self, models: FireworksModels) -> None:
        """What an earlier try has begun and no checkpoint names; not what a later worker of the run has."""
        self._log.hand_over()
        for resource in self._log.own():
            if (resource.kind, resource.account) != (MODEL, models.account):
                continue
            try:
                self._patience.ask(partial(models.delete, resource.name))
            except RecipeError as error:
                self._tell("warning", f"The model {resource.name} of an earlier try was not deleted: {error}")
                continue
            self._log.gone(resource)

    def _listed(self, models: FireworksModels, parent: str, snapshot: str) -> str:
        """The checkpoint's resource name, once it can become a model."""
        deadline, pause = time.monotonic() + LISTED_SECONDS, POLL_SECONDS * SHORTEST_PAUSE
        while True:
            rows = self._patience.ask(partial(models.rows, parent))
            found = [row for row in rows if str(row.get("name", "")).rpartition("/")[2].endswith(snapshot)]
            if ready := [row for row in found if row.get("promotable") is True]:
                return str(ready[0]["name"])
            if time.monotonic() >= deadline:
                what = "says that it cannot become a model" if found else "does not list it"
                raise BackendError(f"{models.place} {what} ({snapshot}).", permanent=True, kind=ErrorKind.REQUEST)
            self._pause(pause)
            pause = min(POLL_SECONDS, pause * 1.5)

    def _await(self, models: FireworksModels, model_id: str, operation: str) -> None:
        deadline, pause = time.monotonic() + READY_SECONDS, POLL_SECONDS * SHORTEST_PAUSE
        while not self._patience.ask(partial(models.is_ready, model_id)):
            if operation and (why := self._patience.ask(partial(models.refusal, operation))):
                raise BackendError(f"{models.place} could not make it: {why}.", permanent=True, kind=ErrorKind.SERVER)
            if time.monotonic() >= deadline:
                raise BackendError(
                    f"{models.place} did not finish the model {model_id} within {READY_SECONDS:,.0f} seconds.",
                    permanent=False,
                    kind=ErrorKind.TIMEOUT,
                )
            self._pause(pause)
            pause = min(POLL_SECONDS, pause * 1.5)

    def _pause(self, seconds: float) -> None:
        if self._abandoned.wait(seconds):
            raise Abandoned


def _request(checkpoint: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What is promoted, and with what body. A trainer's checkpoint is asked for below its account, and names the trainer."""
    trainer, _, name = checkpoint.rpartition("/checkpoints/")
    account, found, _ = trainer.partition("/rlorTrainerJobs/")
    if not found:
        return checkpoint, body
    return f"{account}/checkpoints/{name}", {**body, "trainer_job_id": trainer, "async_promotion": True}
