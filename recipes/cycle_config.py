"""One cycle, as YAML or JSON: evaluate → curate → train → evaluate again, for so many rounds or until there is a reason to stop.

Round n learns from the attempts of the model that round n − 1 left, and goes on from its weights with a fresh optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import Field, model_validator

from recipes.config import (
    AlgorithmChoice,
    BackendChoice,
    DataConfig,
    Document,
    ModelConfig,
    RunConfig,
    Settings,
    below,
    check_pair,
    knob,
    validated,
)
from recipes.curation import CurationSettings
from recipes.curation import Rows as CurationRows
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig, EvalModel, SamplingSettings, Serving, VerifierChoice
from recipes.registry import algorithms, backends, backends_for, check_samples, serves, uses_backend, verifiers
from recipes.rows import RowFormat

Side = Literal["learn", "judge"]
SERVING_CONSENT = ("serving", "accept_billing")


class TasksChoice(Settings):
    """Which tasks, and what judges them: a benchmark that has both, or tasks with a verifier."""

    benchmark: str | None = knob(None, "Name or id of a benchmark of the dashboard; it brings its verifier.", max_length=200)
    dataset: str | None = knob(None, "A dataset version of tasks, as name@version.", max_length=300)
    split: str | None = knob(None, "Beside dataset: only the tasks of this split.", min_length=1, max_length=64)
    path: str | None = knob(None, "A JSONL file of tasks.", max_length=1000)
    verifier: VerifierChoice | None = knob(
        None, "Beside dataset or path: what decides whether a reply is right; left away, exact_match."
    )
    max_tasks: int | None = knob(
        None, "Only the first so many tasks; empty takes all.", unit="tasks", ge=1, le=10_000_000, essential=True
    )

    @model_validator(mode="after")
    def _one_source(self) -> TasksChoice:
        if [self.benchmark, self.dataset, self.path].count(None) != 2:
            raise ValueError("give exactly one of benchmark, dataset and path")
        if self.split is not None and self.dataset is None:
            raise ValueError("give split beside a dataset only")
        if self.benchmark is not None and self.verifier is not None:
            raise ValueError("a benchmark brings its verifier; leave the verifier away, or the benchmark")
        return self

    @property
    def data(self) -> DataConfig | None:
        """Where the tasks are, None where a benchmark knows it."""
        return DataConfig(dataset=self.dataset, split=self.split, path=self.path) if self.benchmark is None else None


class StopRule(Settings):
    """What ends a cycle before its last round. Each is off while it is empty."""

    patience: int | None = knob(
        2,
        "Stop after so many rounds in a row without a gain. A round gains when the whole 95 % interval of its difference to the "
        "last round that did, else to the model before training, lies above zero.",
        unit="rounds",
        ge=1,
        le=100,
        essential=True,
    )
    target: float | None = knob(
        None, "Stop when this share of the held-out attempts is right.", unit="share", gt=0, le=1, essential=True
    )
    max_tokens: int | None = knob(
        None, "Begin no further part once so many tokens were sampled and trained on.", unit="tokens", ge=1, le=10**15
    )
    max_hours: float | None = knob(
        None, "Begin no further part once evals and runs have taken so long together.", unit="hours", gt=0, le=100_000
    )


def evals_of(rounds: int) -> int:
    """The baseline, and two a round."""
    return 2 * rounds + 1


def trains_on(training: str, backend: str) -> bool:
    """Whether a cycle can train by this algorithm where it samples. What only a service can serve must be trained there. Raises
    ConfigError for what there is not."""
    if backend not in backends_for(training):
        return False
    return not serves(backend) or uses_backend(algorithms.get(training))


@contextmanager
def _as_of_the_cycle() -> Iterator[None]:
    """What is wrong with a training run is told at the cycle's own settings."""
    try:
        yield
    except ConfigError as error:
        places: dict[tuple[str | int, ...], tuple[str, ...]] = {("model", "init_from_checkpoint"): ("model", "checkpoint")}
        path = places.get(error.path, error.path)
        raise ConfigError(str(error), path=("training", *path[1:]) if path[:1] == ("algorithm",) else path) from None


class CycleConfig(Document):
    """One cycle. `learn` and `judge` share no task."""

    version: Literal[1] = 1
    name: str = Field("cycle", min_length=1, max_length=200, description="What people call this cycle.")
    model: EvalModel = Field(default_factory=lambda: EvalModel(), description="What the cycle begins with.")
    backend: BackendChoice = Field(default_factory=lambda: BackendChoice(), description="Where it is sampled and trained.")
    serving: Serving | None = Field(
        None,
        description="For a backend that answers from deployments only (fireworks): the one to make for each eval, each billed.",
    )
    learn: TasksChoice = Field(description="Tasks whose attempts become training rows.")
    judge: TasksChoice = Field(description="Held-out tasks that say whether the model got better.")
    rounds: int = knob(3, "Most rounds of eval, curation, training and re-eval.", unit="rounds", ge=1, le=100, essential=True)
    attempts: int = knob(8, "Attempts per task to learn from (k).", unit="attempts", ge=1, le=1024, essential=True)
    judge_attempts: int | None = knob(
        None, "Attempts per held-out task; empty takes as many as there are to learn from.", unit="attempts", ge=1, le=1024
    )
    concurrency: int | None = knob(
        None, "Attempts in flight at once; empty is what fills the batch on this machine.", unit="attempts", ge=1, le=4096
    )
    sampling: SamplingSettings = Field(default_factory=lambda: SamplingSettings(), description="How attempts are sampled.")
    curation: CurationSettings = Field(
        default_factory=lambda: CurationSettings(), description="Which attempts become training rows."
    )
    training: AlgorithmChoice = Field(default_factory=lambda: AlgorithmChoice(), description="How the model learns from them.")
    stop: StopRule = Field(default_factory=lambda: StopRule(), description="What ends the cycle before its last round.")

    def check(self) -> None:
        for side in ("learn", "judge"):
            choice: TasksChoice = getattr(self, side)
            if choice.verifier is not None:
                with below(side, "verifier"):
                    validated(verifiers.get(choice.verifier.kind).Config, choice.verifier.params, ("params",))
        with below("backend"):
            chosen = validated(backends.get(self.backend.kind).Config, self.backend.params, ("params",))
        self._check_model()
        with below("training"):
            algorithm = algorithms.get(self.training.kind)
            settings = validated(algorithm.Config, self.training.params, ("params",))
        if not trains_on(self.training.kind, self.backend.kind):
            raise ConfigError(
                f"{self.training.kind} does not train on {self.backend.kind}, and a cycle trains where it samples. Choose another"
                " algorithm, such as sft.",
                path=("training", "kind"),
            )
        backend = backends.get(self.backend.kind)
        begun = ModelConfig(name=self.model.name, init_from_checkpoint=self.model.checkpoint)
        with _as_of_the_cycle():
            if (check_served := getattr(backend, "check_served", None)) is not None:
                check_served(settings, chosen)
            try:
                check_pair(algorithm, settings, backend, chosen, begun)
            except ConfigError as error:
                if error.path[:2] == ("backend", "params") and error.path[-1] in getattr(backend, "consents", ()):
                    raise ConfigError(f"{error} {self.hours_sentence()}", path=error.path) from None  # it told of one run
                raise
        if self.curation.rows is not CurationRows.ATTEMPTS:
            raise ConfigError(
                "A cycle learns from attempts as chats. Set rows to attempts; pairs are curated and trained on by hand.",
                path=("curation", "rows"),
            )
        needed = getattr(algorithm, "row_format", None)  # an installed algorithm need not know the word
        if needed not in (None, RowFormat.MESSAGES):
            raise ConfigError(
                f"{self.training.kind} learns from {needed} rows, and attempts become chats. Choose an algorithm that learns "
                "from messages, such as sft.",
                path=("training", "kind"),
            )
        self._check_consent()

    def _check_model(self) -> None:
        """Whether what the cycle begins with can be asked."""
        kind = self.backend.kind
        if serves(kind):
            backends.get(kind).served_name(self.model.name, self.model.checkpoint)
            return
        check_samples(kind)
        if self.serving is not None:
            raise ConfigError(
                f"serving is for a backend that answers from deployments only, and {kind} does not; leave it away.",
                path=("serving",),
            )

    def _check_consent(self) -> None:
        """After everything else: whoever agrees to pay agrees to a cycle that can run."""
        serving = self.serving or Serving()
        if serves(self.backend.kind) and not serving.accept_billing:
            raise ConfigError(
                f"{self.backend.kind} answers from deployments only, billed for every second that their GPUs are up. This cycle"
                f" makes one for each of its evals, {self.num_evals:,} at most, and deletes it after the eval, or after"
                f" {serving.longest_hours:g} hours. Agree to that (serving.accept_billing: true).",
                path=SERVING_CONSENT,
            )

    def hours_sentence(self) -> str:
        """How many machines that are billed by time its training orders, and for how long together; empty for none."""
        hours = self.run_config(name="round", dataset="rows").billed_hours()
        if hours is None:
            return ""
        return f"This cycle orders one for each of its rounds, {self.rounds:,} at most: {self.rounds * hours:g} hours in all."

    @property
    def num_evals(self) -> int:
        """At most."""
        return evals_of(self.rounds)

    def check_weights(self) -> None:
        """Whether training can begin from the weights that the cycle does; see `RunConfig.check_weights`. Raises ConfigError."""
        with _as_of_the_cycle():
            self.run_config(name="round 1", dataset="rows", checkpoint=self.model.checkpoint).check_weights()

    def attempts_at(self, side: Side) -> int:
        """k of the evals on that side."""
        return self.judge_attempts if side == "judge" and self.judge_attempts is not None else self.attempts

    def eval_config(self, side: Side, *, name: str, checkpoint: str | None) -> EvalConfig:
        """The eval of that side's tasks by the model with these weights."""
        choice: TasksChoice = getattr(self, side)
        return EvalConfig(
            name=name,
            model=EvalModel(name=self.model.name, checkpoint=checkpoint),
            backend=self.backend,
            serving=self.serving,
            data=choice.data or DataConfig(dataset=choice.benchmark),
            verifier=choice.verifier or VerifierChoice(),
            sampling=self.sampling,
            attempts=self.attempts_at(side),
            concurrency=self.concurrency,
            max_tasks=choice.max_tasks,
        )

    def run_config(self, *, name: str, dataset: str, checkpoint: str | None = None) -> RunConfig:
        """The training run on a dataset version that begins from these weights."""
        return RunConfig(
            name=name,
            model=ModelConfig(name=self.model.name, init_from_checkpoint=checkpoint),
            data=DataConfig(dataset=dataset),
            algorithm=self.training,
            backend=self.backend,
        )
