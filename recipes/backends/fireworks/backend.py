"""The fireworks backend: an account at Fireworks, and the two ways to train in it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import BaseModel

from recipes.backends.fireworks.config import (
    NO_SAMPLER,
    OF_DEDICATED,
    PROMOTE,
    SCHEME,
    TRAINER_PLACE,
    FireworksConfig,
    Promoted,
    Trainer,
    check_model_name,
    check_steps,
    is_model_address,
)
from recipes.config import BaseAlgorithmConfig
from recipes.errors import BackendError, ConfigError
from recipes.managed_jobs import ManagedJobs

if TYPE_CHECKING:
    from recipes.config import ModelConfig
    from recipes.protocols import Backend
    from recipes.serving import Deployments

KEY_VARIABLE = "FIREWORKS_API_KEY"


class FireworksBackend:
    name: ClassVar[str] = "fireworks"
    summary: ClassVar[str] = (
        "Fireworks' servers, which bill the training by token, or a dedicated trainer by the hour. Models are named as Fireworks"
        " names them."
    )
    Config: ClassVar[type[BaseModel]] = FireworksConfig
    ignored_fields: ClassVar[frozenset[str]] = frozenset()
    gives_topk_prompt_logprobs: ClassVar[bool] = True
    samples: ClassVar[bool] = False
    samples_in_training: ClassVar[bool] = True
    consents: ClassVar[frozenset[str]] = frozenset({"accept_billing"})
    """Settings that agree to a bill: nobody's clone takes them over."""
    unused_by_evals: ClassVar[frozenset[str]] = frozenset({"tokenizer", "step_seconds", "promote", "trainer"}) | OF_DEDICATED
    """Settings of steps: the deployment that an eval has made renders there."""

    @staticmethod
    def check_model(name: str) -> None:
        """Raises ConfigError for what is no model's name there. Asks nobody."""
        check_model_name(name)

    @staticmethod
    def check_algorithm(settings: BaseModel, chosen: BaseModel, model: ModelConfig) -> None:
        """Before a run waits in the queue. Jobs are asked about there; steps have needs that can be seen from here. Raises
        ConfigError."""
        if isinstance(settings, BaseAlgorithmConfig):
            check_steps(FireworksConfig.model_validate(chosen.model_dump()), settings, model)
        elif (weights := model.init_from_checkpoint or "").startswith(SCHEME) and not is_model_address(weights):
            raise ConfigError(
                f"{weights} is no model at Fireworks, so no job can begin from it. {PROMOTE}",
                path=("model", "init_from_checkpoint"),
            )

    @staticmethod
    def check_sampling(chosen: BaseModel) -> None:
        """Raises ConfigError where what trains is not sampled from."""
        if FireworksConfig.model_validate(chosen.model_dump()).trainer is Trainer.DEDICATED:
            raise ConfigError(NO_SAMPLER, path=TRAINER_PLACE)

    @classmethod
    def jobs(
        cls,
        config: BaseModel,
        *,
        secrets: Mapping[str, str] | None = None,
        wait: Callable[[float], None] = time.sleep,
        account: str = "",
    ) -> ManagedJobs:
        """Connect to the service that runs whole trainings as jobs. wait: how to pause between questions. account: where what is
        asked about lies, once that is known. Raises ConfigError, and BackendError also for a key that leads elsewhere."""
        settings = FireworksConfig.model_validate(config.model_dump())
        try:
            from recipes.backends.fireworks.jobs import FireworksJobs
        except ImportError as error:
            raise _needs_sdk(error) from None
        return FireworksJobs(settings, chosen_key(settings, secrets or {}), wait=wait, account=account)

    @classmethod
    def deployments(cls, config: BaseModel, *, secrets: Mapping[str, str] | None = None, account: str = "") -> Deployments:
        """Connect to where weights are served. account: where what is asked about lies, once that is known. Raises ConfigError,
        and BackendError also for a key that leads elsewhere."""
        settings = FireworksConfig.model_validate(config.model_dump())
        try:
            from recipes.backends.fireworks.deployments import FireworksDeployments
        except ImportError as error:
            raise _needs_sdk(error) from None
        return FireworksDeployments(settings, chosen_key(settings, secrets or {}), account=account)

    @staticmethod
    def hourly_cost(config: BaseModel, *, secrets: Mapping[str, str]) -> str:
        """What an hour of the dedicated trainer costs that the settings name, in a sentence; makes none. Raises ConfigError,
        BackendError."""
        settings = FireworksConfig.model_validate(config.model_dump())
        if settings.training_shape is None:
            raise ConfigError(
                "Name a training shape to ask what it costs: what the service chooses is known only once it is up.",
                path=("backend", "params", "training_shape"),
            )
        try:
            from recipes.backends.fireworks.trainers import FireworksTrainers
        except ImportError as error:
            raise _needs_sdk(error) from None
        trainers = FireworksTrainers(settings, chosen_key(settings, secrets))
        try:
            shape = trainers.shape(settings.training_shape)
        finally:
            trainers.close()
        unfit = "" if shape.trains_adapters else " It trains no LoRA adapters, and nothing else is trained on it here."
        return f"{trainers.place} would train on {shape.cost}.{unfit}"

    @staticmethod
    def served_name(name: str, checkpoint: str | None) -> str:
        """Raises ConfigError for a checkpoint that is no model there."""
        check_model_name(name)
        if checkpoint is None:
            return name
        if not is_model_address(checkpoint):
            raise ConfigError(
                f"{checkpoint} is no model at Fireworks, so no deployment can serve it. A job's checkpoint is one"
                f" ({SCHEME}accounts/…/models/…). {PROMOTE}",
                path=("model", "checkpoint"),
            )
        return checkpoint.removeprefix(SCHEME)

    @staticmethod
    def check_served(settings: BaseModel, chosen: BaseModel) -> None:
        """A job leaves a model there; what is trained step by step becomes one, unless that is turned off. Raises ConfigError."""
        is_promoted = FireworksConfig.model_validate(chosen.model_dump()).promote is not Promoted.NONE
        if isinstance(settings, BaseAlgorithmConfig) and not is_promoted:
            raise ConfigError(
                "Weights of training step by step are served once they are a model there. Set promote to final.",
                path=("backend", "params", "promote"),
            )

    @staticmethod
    def key(config: BaseModel, secrets: Mapping[str, str]) -> str:
        return chosen_key(FireworksConfig.model_validate(config.model_dump()), secrets)

    @classmethod
    async def open(
        cls,
        config: BaseModel,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        output_dir: Path,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> Backend:
        """Begin a session of the serverless pool, or have a trainer made, for training step by step. Raises ConfigError,
        BackendError."""
        settings = FireworksConfig.model_validate(config.model_dump())
        key = chosen_key(settings, secrets or {})
        sdk = import_sdk()
        if settings.trainer is Trainer.DEDICATED:
            from recipes.backends.fireworks.dedicated import DedicatedSteps

            steps = await DedicatedSteps.begin_in_trainer(
                sdk, settings, key, model=model, algorithm=algorithm, run_dir=output_dir, report=report
            )
            return cast("Backend", steps)
        from recipes.backends.fireworks.steps import FireworksSteps

        session = await FireworksSteps.begin(
            sdk, settings, key, model=model, algorithm=algorithm, run_dir=output_dir, report=report
        )
        return cast("Backend", session)  # all of one but `open`, which is here


def _needs_sdk(error: ImportError) -> BackendError:
    return BackendError(
        f"Fireworks needs its SDK, which cannot be imported here ({error}): pip install fireworks-ai.", permanent=True
    )


def import_sdk() -> Any:
    """The training SDK, its telemetry off unless the operator turned it on. Raises ConfigError where it cannot be imported."""
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    logging.getLogger("fireworks.training").setLevel(logging.ERROR)  # it tells of every session, and of every wait
    try:
        from fireworks.training import sdk

        sdk.FiretitanServiceClient  # noqa: B018 - its names are imported when they are first asked for
    except ImportError as missing:
        raise ConfigError(
            f"Fireworks' training SDK cannot be imported here ({missing}): pip install fireworks-ai urllib3 requests.",
            path=("backend", "kind"),
        ) from None
    return sdk


def chosen_key(settings: FireworksConfig, secrets: Mapping[str, str]) -> str:
    """The key of the named credential, or the worker's own for Fireworks itself. Raises ConfigError when there is none."""
    if key := secrets.get("backend_api_key"):
        return key
    if settings.base_url is None and (key := os.environ.get(KEY_VARIABLE)):
        return key
    raise ConfigError(
        f"Fireworks needs a key. Store one under Credentials and name it here, or set {KEY_VARIABLE} where the worker runs.",
        path=("backend", "params", "credential"),
    )
