"""Dedicated trainers at Fireworks: a machine that speaks the training protocol for one run, billed while it is up.

The base SDK asks for them, with what the training SDK's `TrainerJobManager` would send (a test holds the two to each other). That
one tries a single question for five minutes, refuses keys of two accounts, raises sentences without a status, and says only in a
log that a trainer was not deleted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import fireworks
import httpx

from recipes.backends.fireworks.account import FireworksAccount
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.failures import failures
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.prices import hourly_words, machine_rate

TRAINER = "trainer"
BACKEND = "fireworks"
LONGEST_MESSAGE = 1000
GONE = ("ARCHIVED", "DELETED")
"""What a trainer that was deleted reads: its row stays for the sake of its checkpoints."""
ARCHIVED_SECONDS = 30.0
HEALTH_SECONDS = 10.0
SHAPE_PLACE = ("backend", "params", "training_shape")


class TrainerPhase(StrEnum):
    """COMING also for a state that this program has not heard of. ENDED: it trains no more, and is not gone."""

    COMING = "coming"
    RUNNING = "running"
    ENDED = "ended"


PHASES = {
    "RUNNING": TrainerPhase.RUNNING,
    "FAILED": TrainerPhase.ENDED,
    "CANCELLING": TrainerPhase.ENDED,
    "CANCELLED": TrainerPhase.ENDED,
    "COMPLETED": TrainerPhase.ENDED,
    "EARLY_STOPPED": TrainerPhase.ENDED,
    "EXPIRED": TrainerPhase.ENDED,
    "PAUSED": TrainerPhase.ENDED,
    "DELETING": TrainerPhase.ENDED,
    "DELETING_CLEANING_UP": TrainerPhase.ENDED,
}


class TrainerStanding(NamedTuple):
    """state: the service's word. message: its sentence, if any. base_model, rank: what it was made for. context_length: tokens,
    where it says. gpu_seconds: used so far, by accelerator, where it says."""

    state: str
    phase: TrainerPhase
    message: str = ""
    base_model: str = ""
    rank: int | None = None
    context_length: int | None = None
    gpu_seconds: Mapping[str, float] = MappingProxyType({})

    @property
    def bill(self) -> str:
        """What it has used so far, and what that costs, in a sentence; empty where the service does not say."""
        used = []
        for accelerator, seconds in self.gpu_seconds.items():
            rate = machine_rate(BACKEND, accelerator)
            price = f", about ${seconds / 3600 * rate.per_hour:,.2f} ({rate.said})" if rate else ""
            used.append(f"{seconds:,.0f} seconds of {accelerator}{price}")
        return f"It had used {'; '.join(used)}. The host's bill decides." if used else ""


class TrainingShape(NamedTuple):
    """What a trainer runs on. name: as it is ordered. accelerators: of all its nodes. context_length: tokens; None is unsaid."""

    name: str
    accelerator: str
    accelerators: int
    context_length: int | None
    trains_adapters: bool

    @property
    def dollars_per_hour(self) -> float | None:
        """None when it is not known."""
        rate = machine_rate(BACKEND, self.accelerator)
        return rate.per_hour * self.accelerators if rate and self.accelerators else None

    @property
    def cost(self) -> str:
        """In a sentence, for whoever pays."""
        machine = f"{self.accelerators or 'an unsaid number'} × {self.accelerator or 'an accelerator that it does not name'}"
        price = hourly_words(BACKEND, self.accelerator if self.accelerators else "", self.accelerators)
        return f"{machine}, billed per GPU-second while it is up: {price}"


class TrainerOrder(NamedTuple):
    """shape: None leaves it to the service. max_seq_len: None where the algorithm names none."""

    name: str
    base_model: str
    rank: int
    learning_rate: float
    shape: TrainingShape | None
    max_seq_len: int | None
    idle_minutes: int


class FireworksTrainers(FireworksAccount):
    """Trainers of the account. All raise BackendError."""

    def __init__(self, settings: FireworksConfig, key: str, *, account: str = "") -> None:
        super().__init__(settings, key, account=account)
        self._key = key

    def shape(self, name: str) -> TrainingShape:
        """Of its newest validated version. Raises ConfigError where there is none that this key may see."""
        query = {"filter": "latest_validated=true", "pageSize": 1}
        with failures(f"the training shape {name}", self.place):
            found: Any = self._unless_missing(
                lambda: self._client.get(f"/v1/{name}/versions", cast_to=object, options={"params": query})
            )
            versions = (found or {}).get("trainingShapeVersions") or []
            if not versions:
                raise ConfigError(f"{self.place} has no validated training shape {name} that this key may see.", path=SHAPE_PLACE)
            snapshot = versions[0].get("snapshot") or {}
            return TrainingShape(
                name,
                str(snapshot.get("acceleratorType") or ""),
                int(snapshot.get("acceleratorCount") or 0) * int(snapshot.get("nodeCount") or 1),
                int(snapshot.get("maxSupportedContextLength") or 0) or None,
                snapshot.get("trainerMode") == "LORA_TRAINER",
            )

    def create(self, order: TrainerOrder) -> None:
        """Asked once: the SDK would ask again by itself, and nobody would know whether the first was heard. One of this name that
        is there already is the one asked for, since nobody else draws that name."""
        training: dict[str, Any] = {
            "base_model": order.base_model,
            "lora_rank": order.rank,
            "learning_rate": order.learning_rate,
        }
        if order.shape is None and order.max_seq_len is not None:
            training["max_context_length"] = order.max_seq_len
        with failures("the new trainer", self.place):
            try:
                self._client.with_options(max_retries=0).reinforcement_fine_tuning_steps.create(
                    rlor_trainer_job_id=order.name,
                    display_name=order.name,
                    service_mode=True,
                    keep_alive=False,
                    dataset="",
                    training_config=training,  # type: ignore[arg-type]  # a TypedDict by its content
                    extra_query={"trainingShape": order.shape.name} if order.shape else None,
                    extra_body={"useReservation": True, "inactivityTimeout": f"{order.idle_minutes * 60}s"},
                )
            except fireworks.ConflictError:
                if self.look(order.name) is None:
                    raise BackendError(
                        f"{self.place} says that there is a trainer {order.name} already, and shows none.",
                        permanent=False,
                        kind=ErrorKind.SERVER,
                    ) from None

    def look(self, name: str) -> TrainerStanding | None:
        """None: there is none, or none any more."""
        with failures("the state of the trainer", self.place):
            found = self._unless_missing(lambda: self._client.reinforcement_fine_tuning_steps.get(name))
            state = _state(found)
            if found is None or state in GONE:
                return None
            made_for = found.training_config
            return TrainerStanding(
                state,
                PHASES.get(state, TrainerPhase.COMING),
                _message(found),
                (made_for.base_model if made_for else None) or "",
                made_for.lora_rank if made_for else None,
                (made_for.max_context_length if made_for else None) or None,
                {str(kind): float(seconds) for kind, seconds in (found.accelerator_seconds or {}).items()},
            )

    def address(self, name: str) -> str:
        """Where the training protocol is spoken, for the training SDK."""
        return f"{self._url}/training/v1/rlorTrainerJobs/{self.account}/{name}"

    def answers(self, name: str) -> bool:
        """Running is not answering yet."""
        headers = {"Authorization": f"Bearer {self._key}", "X-Api-Key": self._key}
        try:
            found = self._bare.get(f"{self.address(name)}/api/v1/healthz", headers=headers, timeout=HEALTH_SECONDS)
        except httpx.HTTPError:
            return False
        return found.status_code == 200

    def delete(self, name: str) -> None:
        """What is not there any more is deleted already."""
        with failures(f"to delete the trainer {name}", self.place):
            remove_trainer(self._client, name, self.place)


def remove_trainer(client: Any, name: str, place: str) -> None:
    """Returns once it reads as gone. Raises BackendError for one that does not, and what the SDK raises."""
    trainers = client.reinforcement_fine_tuning_steps
    try:
        trainers.delete(name)
    except fireworks.NotFoundError:
        return
    except (fireworks.BadRequestError, fireworks.ConflictError):
        if _state(trainers.get(name)) not in GONE:
            raise
    deadline, pause = time.monotonic() + ARCHIVED_SECONDS, 0.05
    while True:
        try:
            state = _state(trainers.get(name))
        except fireworks.NotFoundError:
            return
        if state in GONE:
            return
        if time.monotonic() >= deadline:
            raise BackendError(
                f"{place} was asked to delete the trainer {name} and still says {state} after {ARCHIVED_SECONDS:g} seconds.",
                permanent=False,
                kind=ErrorKind.SERVER,
            )
        time.sleep(pause)
        pause = min(5.0, pause * 1.5)


def _state(trainer: Any) -> str:
    return str((trainer.state if trainer is not None else None) or "UNSPECIFIED").removeprefix("JOB_STATE_")


def _message(trainer: Any) -> str:
    said = (trainer.model_extra or {}).get("statusMessage") or (trainer.status.message if trainer.status else None) or ""
    return str(said).strip()[:LONGEST_MESSAGE]
