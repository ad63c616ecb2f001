"""Weights that stay at a service and answer from a deployment there: made for one eval, billed while it is up, deleted after it.

1. Its name is chosen here and written down before the service hears of it (`resources`): whoever comes after a killed worker
   takes up the same one, or removes it.
2. It may scale to no replica and does so when nobody asks, so that one that is forgotten costs nothing after some minutes.
3. Ready is not answering: a deployment counts once it has said a word.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from pydantic import BaseModel

from recipes.chat import ChatClient
from recipes.endpoint import EndpointChat
from recipes.errors import BackendError, ConfigError, ErrorKind
from recipes.eval_config import Endpoint, EvalConfig, Serving
from recipes.patience import OUTAGES, SHORTEST_PAUSE, Patience
from recipes.prices import hourly_words, machine_rate
from recipes.registry import backends
from recipes.resources import Resource, ResourceLog
from recipes.types import SamplingParams

DEPLOYMENT = "deployment"
POLL_SECONDS = 10.0
"""The longest pause between two looks."""
LISTEN_SECONDS = 0.2
"""So soon a stop is heard while it is waited for."""
DELETE_SECONDS = 300.0
"""How long the service may be out of reach when the deployment is to be deleted."""
PROBE = SamplingParams(max_tokens=1, temperature=0.0)


class ServingStopped(Exception):
    """A stop was asked for before the deployment answered."""


class DeploymentPhase(StrEnum):
    COMING = "coming"
    READY = "ready"
    FAILED = "failed"


class DeploymentStanding(NamedTuple):
    """state: the service's word. message: its sentence, if any."""

    state: str
    phase: DeploymentPhase
    message: str = ""


class ServingOffer(NamedTuple):
    """What the service would serve a model on. accelerators: of one replica."""

    shape: str
    accelerator: str
    accelerators: int

    def dollars_per_hour(self, backend: str) -> float | None:
        """Of one replica; None when it is not known."""
        rate = machine_rate(backend, self.accelerator)
        return rate.per_hour * self.accelerators if rate else None

    def cost(self, backend: str) -> str:
        """In a sentence, for whoever pays."""
        machine = f"{self.accelerators} × {self.accelerator or 'an accelerator that it does not name'}"
        price = hourly_words(backend, self.accelerator, self.accelerators)
        return f"{machine} per replica, billed per GPU-second while it is up: {price}"


def refuse_dear(offer: ServingOffer, serving: Serving, *, backend: str, model: str, place: str) -> None:
    """Raises ConfigError, before anything is made."""
    most, one = serving.max_dollars_per_hour, offer.dollars_per_hour(backend)
    if most is None or (one is not None and one * serving.max_replicas <= most):
        return
    found = "is not known" if one is None else f"is about ${one * serving.max_replicas:,.2f}"
    raise ConfigError(
        f"{place} would serve {model} on {offer.accelerators} × {offer.accelerator}, whose price an hour"
        f" {found}, and serving.max_dollars_per_hour allows ${most:,.2f}. Nothing was made.",
        path=("serving", "max_dollars_per_hour"),
    )


class Deployments(Protocol):
    """What a service that serves is asked. All raise BackendError; `offer` also ConfigError where nothing fits."""

    place: str
    account: str

    def offer(self, model: str, shape: str | None) -> ServingOffer:
        """shape: None takes the first that the service matches. Makes nothing."""
        ...

    def create(self, name: str, model: str, offer: ServingOffer, serving: Serving) -> None:
        """One of this name that is there already is taken for the one asked for if it serves the same model, else refused."""
        ...

    def look(self, name: str) -> DeploymentStanding | None:
        """None: there is none, or none any more."""
        ...

    def endpoint(self, name: str) -> Endpoint: ...

    def delete(self, resource: Resource) -> None:
        """What is not there any more is deleted already."""
        ...

    def close(self) -> None: ...


class Serves(Protocol):
    """What a Backend's class may offer besides: deployments of what it trained."""

    def deployments(self, config: BaseModel, *, secrets: Mapping[str, str] | None = None, account: str = "") -> Deployments:
        """A class method. account: where what is asked about lies, once that is known. Raises ConfigError, BackendError."""
        ...

    def served_name(self, name: str, checkpoint: str | None) -> str:
        """What a deployment of these weights is made of; asks nobody. Raises ConfigError for what cannot be served."""
        ...

    def check_served(self, settings: BaseModel, chosen: BaseModel) -> None:
        """Whether what is trained by these settings of an algorithm can be served. chosen: settings of the backend. Raises
        ConfigError with the path in a run's config."""
        ...

    def key(self, config: BaseModel, secrets: Mapping[str, str]) -> str:
        """Raises ConfigError when there is none."""
        ...


class Deployed:
    """`with Deployed(config, …) as deployed:` is a deployment that answers. Raises ConfigError, BackendError, ServingStopped."""

    def __init__(
        self,
        config: EvalConfig,
        *,
        secrets: Mapping[str, str],
        log: ResourceLog,
        report: Callable[[str, str], None],
        should_stop: Callable[[], bool],
        allows_address: Callable[[str], bool] | None = None,
    ) -> None:
        assert config.model is not None and config.serving is not None
        self._kind = config.backend.kind
        self._serving: Serving = config.serving
        self._backend: Serves = backends.get(self._kind)
        self._settings = config.backend_config()
        self._model = self._backend.served_name(config.model.name, config.model.checkpoint)
        self._concurrency = config.concurrency or 32
        self._secrets, self._log, self._report = secrets, log, report
        self._was_asked, self._allows_address = should_stop, allows_address
        self._deployments: Deployments | None = None
        self._resource: Resource | None = None
        self._up_since = time.monotonic()
        outage_seconds = float(getattr(self._settings, "outage_seconds", DELETE_SECONDS))
        self._patience = Patience(
            wait=lambda seconds, error: self._wait(seconds),
            tell=report,
            outage_seconds=outage_seconds,
            poll_seconds=POLL_SECONDS,
        )

    def client(self) -> ChatClient:
        """To be closed by whoever asks."""
        return self._chat(self._endpoint(), concurrency=self._concurrency)

    def should_stop(self) -> bool:
        return self._was_asked() or self.is_overdue

    @property
    def is_overdue(self) -> bool:
        """It has been up for as long as it may cost."""
        return time.monotonic() - self._up_since > self._serving.longest_hours * 3600

    def refuse_overdue(self) -> None:
        """Raises BackendError."""
        if self.is_overdue:
            raise BackendError(
                f"The deployment was up for {self._serving.longest_hours:g} hours, as long as serving.longest_hours allows,"
                " and is deleted. Resume to make the rest on another one.",
                permanent=False,
                kind=ErrorKind.TIMEOUT,
            )

    def remove_left(self) -> None:
        """What a worker that was killed has left, where nothing is to be asked any more."""
        if left := self._connect():
            try:
                for self._resource in left:
                    self._remove()
            finally:
                self._asked.close()

    def __enter__(self) -> Self:
        left = self._connect(is_needed=True)
        try:
            if not self._take_up(left):
                self._make()
            self._await_ready()
            self._await_words()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    # the way there

    def _connect(self, *, is_needed: bool = False) -> list[Resource]:
        """To the account where something is left already, or is to be made; gives what is left."""
        left = [resource for resource in self._log.left() if resource.kind == DEPLOYMENT]
        account = left[-1].account if left else ""
        if left or is_needed:
            connect = partial(self._backend.deployments, self._settings, secrets=self._secrets, account=account)
            self._deployments = self._patience.ask(connect)
        return left

    @property
    def _asked(self) -> Deployments:
        assert self._deployments is not None
        return self._deployments

    def _take_up(self, left: list[Resource]) -> bool:
        """What an earlier worker made; what of it cannot be used is removed."""
        for resource in left:
            self._resource = resource
            standing = self._patience.ask(partial(self._asked.look, resource.name))
            if standing is None:
                self._log.gone(resource)
            elif standing.phase is DeploymentPhase.FAILED:
                self._remove()
            else:
                self._up_since = time.monotonic() - self._log.seconds_since_planned(resource)
                self._report("info", f"Found the deployment {resource.name} again at {self._asked.place}.")
                return True
        self._resource = None
        return False

    def _make(self) -> None:
        offer = self._patience.ask(lambda: self._asked.offer(self._model, self._serving.shape))
        self._report("info", f"{self._asked.place} serves {self._model} on {offer.cost(self._kind)}.")
        refuse_dear(offer, self._serving, backend=self._kind, model=self._model, place=self._asked.place)
        resource = Resource(DEPLOYMENT, f"evsys-eval-{uuid.uuid4().hex[:12]}", self._asked.account)
        self._log.plan(resource)
        self._resource, self._up_since = resource, time.monotonic()
        self._patience.ask(lambda: self._asked.create(resource.name, self._model, offer, self._serving))
        self._report("info", f"Ordered the deployment {resource.name}, account {resource.account}. It is deleted after the eval.")

    def _await_ready(self) -> None:
        deadline, told = time.monotonic() + self._serving.ready_seconds, ""
        assert self._resource is not None
        name, pause = self._resource.name, POLL_SECONDS * SHORTEST_PAUSE / 10
        while True:
            standing = self._patience.ask(lambda: self._asked.look(name))
            if standing is None:
                raise self._failure("is gone: somebody deleted it there", ErrorKind.REQUEST)
            if standing.phase is DeploymentPhase.READY:
                return
            if standing.phase is DeploymentPhase.FAILED:
                raise self._failure(f"failed: {standing.message or 'it gives no reason'}", ErrorKind.SERVER)
            if standing.state != told:
                told = standing.state
                words = f": {standing.message}" if standing.message else "."
                self._report("info", f"{self._asked.place} says {standing.state}{words}")
            if time.monotonic() >= deadline:
                raise self._failure(f"was still {standing.state} after {self._serving.ready_seconds:,.0f} seconds")
            self._wait(pause)
            pause = min(POLL_SECONDS, pause * 1.5)

    def _await_words(self) -> None:
        """Raises BackendError for a key that is refused, or when it says nothing for too long."""
        deadline, pause = time.monotonic() + self._serving.ready_seconds, POLL_SECONDS * SHORTEST_PAUSE / 10
        while True:
            try:
                asyncio.run(self._ask_for_a_word())
            except BackendError as error:
                is_missing = error.kind is ErrorKind.REQUEST  # 404 while the router does not know it yet
                if not is_missing and (error.permanent or error.kind not in OUTAGES):
                    raise
                if time.monotonic() >= deadline:
                    raise self._failure(
                        f"is ready but said nothing for {self._serving.ready_seconds:,.0f} seconds. {error}"
                    ) from error
            else:
                self._report("info", "The deployment answers.")
                return
            self._wait(pause)
            pause = min(POLL_SECONDS, pause * 1.5)

    async def _ask_for_a_word(self) -> None:
        client = self._chat(self._endpoint().model_copy(update={"max_retries": 0}), concurrency=1)
        try:
            await client.sample([{"role": "user", "content": "Hello"}], PROBE)
        finally:
            await client.close()

    def _chat(self, endpoint: Endpoint, *, concurrency: int) -> EndpointChat:
        key = self._backend.key(self._settings, self._secrets)
        return EndpointChat(endpoint, api_key=key, concurrency=concurrency, allows_address=self._allows_address)

    def _endpoint(self) -> Endpoint:
        assert self._resource is not None
        return self._asked.endpoint(self._resource.name)

    def _wait(self, seconds: float) -> None:
        """Raises ServingStopped as soon as a stop is asked for, BackendError once what is waited for may be up no longer."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._was_asked():
                raise ServingStopped
            if self._resource is not None:
                self.refuse_overdue()
            time.sleep(min(left, LISTEN_SECONDS))

    # the way back

    def _leave(self) -> None:
        try:
            self._remove()
        finally:
            self._asked.close()

    def _remove(self) -> None:
        resource = self._resource
        if resource is None:
            return
        patience = Patience(
            wait=lambda seconds, error: time.sleep(seconds),
            tell=self._report,
            outage_seconds=DELETE_SECONDS,
            poll_seconds=POLL_SECONDS / 2,
        )
        try:
            patience.ask(lambda: self._asked.delete(resource))
        except (BackendError, ConfigError) as error:
            self._report(
                "error", f"The deployment {resource.name} was not deleted and may cost; `manage.py reap` tries again. {error}"
            )
            return
        self._log.gone(resource)
        self._resource = None
        self._report("info", f"The deployment {resource.name} was deleted.")

    def _failure(self, what: str, kind: ErrorKind = ErrorKind.TIMEOUT) -> BackendError:
        name = self._resource.name if self._resource else ""
        return BackendError(f"The deployment {name} at {self._asked.place} {what}.", permanent=False, kind=kind)
