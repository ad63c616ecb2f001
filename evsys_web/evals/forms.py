"""What a person types to start an eval: what answers, which tasks, how often. Settings are drawn from EvalConfig's parts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from django import forms
from django.db.models import QuerySet
from django.http import QueryDict
from pydantic import BaseModel, create_model

from evsys_web.accounts.models import BackendCredential, Project, User
from evsys_web.config_forms import ConfigForm, mistakes_in
from evsys_web.datasets.models import DatasetVersion, Format
from evsys_web.evals.models import Benchmark, EvalRun
from evsys_web.runs.backends import check_model_name, unagreed
from evsys_web.runs.forms import (
    CheckpointField,
    VersionField,
    checkpoints_for,
    model_fitting,
    offer_splits,
    ready_versions,
)
from evsys_web.runs.models import Checkpoint
from recipes.backends.local.models import STARTER_NAME
from recipes.config import BackendChoice, Settings
from recipes.errors import ConfigError
from recipes.eval_config import Endpoint, EvalConfig, EvalModel, SamplingSettings, Serving
from recipes.registry import backends, evaluated_backends, serves, verifiers

NUM_CHECKPOINTS_OFFERED = 50
SOURCES = [
    ("model", "A model as it is"),
    ("checkpoint", "A checkpoint of a run"),
    ("endpoint", "An OpenAI-compatible endpoint"),
]


def part_of(config_class: type[BaseModel], name: str, *fields: str) -> type[BaseModel]:
    """A Config of these fields alone, with their defaults, bounds and sentences."""
    chosen: dict[str, Any] = {
        field: (config_class.model_fields[field].annotation, config_class.model_fields[field]) for field in fields
    }
    return create_model(name, __base__=Settings, **chosen)


AttemptSettings = part_of(EvalConfig, "AttemptSettings", "attempts", "max_tasks", "concurrency", "max_errors_in_a_row")
EndpointSettings = part_of(Endpoint, "EndpointSettings", "base_url", "model", "timeout_seconds", "max_retries")


class BenchmarkField(forms.ModelChoiceField[Benchmark]):
    def label_from_instance(self, benchmark: Benchmark) -> str:
        return f"{benchmark.name} ({benchmark.dataset_reference}, {words(benchmark.verifier_kind)})"


class ChoicesForm(forms.Form):
    """Everything that is chosen rather than tuned."""

    name = forms.CharField(max_length=200, required=False, help_text="What people call this eval; left empty, it gets a name.")
    source = forms.ChoiceField(choices=SOURCES, label="Source", initial="model")
    backend = forms.ChoiceField(required=False, label="Runs on", help_text="Where the model is opened and asked.")
    model_name = forms.CharField(
        label="Model", required=False, max_length=500, help_text=EvalModel.model_fields["name"].description or ""
    )
    checkpoint = CheckpointField(
        queryset=Checkpoint.objects.none(),
        required=False,
        empty_label="Choose a checkpoint",
        help_text="Weights that a run saved, sampled where they were trained.",
    )
    credential = forms.ModelChoiceField(
        queryset=BackendCredential.objects.none(), required=False, empty_label="no key", help_text="The stored key that is sent."
    )
    benchmark = BenchmarkField(
        queryset=Benchmark.objects.none(),
        required=False,
        empty_label="A new one, from a dataset",
        help_text="Tasks and what decides whether a reply is right.",
    )
    benchmark_name = forms.CharField(
        max_length=200, required=False, label="Its name", help_text="To find it again; left empty, it gets one."
    )
    dataset_version = VersionField(
        queryset=DatasetVersion.objects.none(),
        required=False,
        label="Tasks",
        empty_label="Choose a dataset of tasks",
        help_text="Every row is a task with its answer.",
    )
    split = forms.ChoiceField(required=False, label="Split", help_text="Only its tasks.")
    verifier = forms.ChoiceField(required=False, help_text="What decides whether a reply is right.")
    submission_key = forms.CharField(max_length=200, widget=forms.HiddenInput)
    shown_backend = forms.CharField(required=False, widget=forms.HiddenInput)
    cloned_from = forms.ModelChoiceField(queryset=EvalRun.objects.none(), required=False, widget=forms.HiddenInput)
    use_required_attribute = False

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial={"submission_key": uuid.uuid4().hex, **(initial or {})})
        self._offer("benchmark", benchmarks_for(user))
        self._offer("dataset_version", task_versions_for(user))
        offer_splits(self, first=("", "all tasks"))
        self._offer("credential", BackendCredential.objects.editable_by(user).order_by("name"))
        self._offer("cloned_from", EvalRun.objects.visible_to(user))
        self._offer_checkpoints(checkpoints_for(user))
        self._offer_backends()
        self.fields["verifier"].choices = [(kind, words(kind)) for kind in verifiers.kinds()]  # type: ignore[attr-defined]
        self.fields["model_name"].widget.attrs.update({"list": "models", "autocomplete": "off", "spellcheck": "false"})

    def clean(self) -> dict[str, Any]:
        """What the chosen source and the chosen way to a benchmark call for."""
        found = self.cleaned_data
        wanted = {"model": "model_name", "checkpoint": "checkpoint"}.get(found.get("source", ""))
        if wanted and wanted not in self.errors and not found.get(wanted):
            self.add_error(wanted, f"Choose a {wanted.partition('_')[0]}.")
        if "benchmark" not in self.errors and not found.get("benchmark"):
            if not found.get("dataset_version") and "dataset_version" not in self.errors:
                self.add_error("dataset_version", "Choose the tasks.")
            if not found.get("verifier") and "verifier" not in self.errors:
                self.add_error("verifier", "Choose what decides whether a reply is right.")
        return found

    def clean_model_name(self) -> str:
        name = str(self.cleaned_data["model_name"]).strip()
        if name and self.data.get("source", "model") == "model":
            try:
                check_model_name(self.backend_kind, name)
            except ConfigError as error:
                raise forms.ValidationError(str(error)) from None
        return name

    @property
    def backend_kind(self) -> str:
        """Where a model as it is answers; any other than a registered one is left to the choice itself."""
        chosen = str(self["backend"].value() or "local")
        return chosen if chosen in evaluated_backends() else "local"

    def _offer_backends(self) -> None:
        """A form that is not sent yet moves to a model that the backend may have, where it was drawn for another backend: what
        was typed since stays, and is refused when the form is sent."""
        self.fields["backend"].choices = [(kind, words(kind)) for kind in evaluated_backends()]  # type: ignore[attr-defined]
        was_drawn_for_it = self.initial.get("shown_backend") == self.backend_kind
        if not self.is_bound and not was_drawn_for_it and self.initial.get("source") == "model":
            named = str(self.initial.get("model_name") or STARTER_NAME)
            self.initial["model_name"] = model_fitting(self.backend_kind, named)

    def _offer(self, name: str, allowed: QuerySet[Any]) -> None:
        self.fields[name].queryset = allowed  # type: ignore[attr-defined]

    def _offer_checkpoints(self, allowed: QuerySet[Checkpoint]) -> None:
        """The newest are offered, and the one already chosen; any that the person may see is accepted."""
        field = self.fields["checkpoint"]
        assert isinstance(field, CheckpointField)
        field.queryset = allowed
        chosen = str(self["checkpoint"].value() or "")
        offered = list(allowed[:NUM_CHECKPOINTS_OFFERED])
        if chosen.isdecimal() and int(chosen) not in {checkpoint.pk for checkpoint in offered}:
            offered += allowed.filter(pk=int(chosen))
        field.choices = [("", field.empty_label), *((each.pk, field.label_from_instance(each)) for each in offered)]


class Asked(NamedTuple):
    """A model of a backend, with the weights of a checkpoint or as it is; its key is the project's."""

    project: Project
    backend: BackendChoice
    model_name: str
    checkpoint: str | None


class EvalForm:
    """The choices and the Config forms that they call for, validated together. After `is_valid()`: `config`, the chosen
    `benchmark` or what a new one is made of (`version`, `verifier`, `benchmark_name`), and `checkpoint`."""

    config: EvalConfig
    version: DatasetVersion
    split: str | None
    verifier: dict[str, Any]

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, start: Mapping[str, Any] | None = None) -> None:
        """`data`: what was posted. `start`: starting values of the choices, and under `params` those of the parts' settings."""
        start = dict(start or {})
        params: Mapping[str, Mapping[str, Any]] = start.pop("params", {})
        first = {"source": "model", "backend": "local", "model_name": STARTER_NAME, "verifier": "exact_match"}
        self.choices = ChoicesForm(user, data, initial={**first, **start})
        self.settings: dict[str, ConfigForm] = {}
        for part, config_class in self._parts():
            self.settings[part] = ConfigForm(config_class, data, prefix=part, initial=params.get(part))
        for name in getattr(backends.get(self.choices.backend_kind), "unused_by_evals", ()):
            if "backend" in self.settings:
                self.settings["backend"].fields.pop(name, None)

    def _parts(self) -> list[tuple[str, type[BaseModel]]]:
        parts: list[tuple[str, type[BaseModel]]] = [("attempts", AttemptSettings), ("sampling", SamplingSettings)]
        if self.text("source") == "endpoint":
            parts.append(("endpoint", EndpointSettings))
        if self.is_new_benchmark and (verifier := _registered(verifiers, self.text("verifier"))) is not None:
            parts.append(("verifier", verifier.Config))
        if self.served_by:
            parts.append(("serving", Serving))
        if self.text("source") == "model":
            parts.append(("backend", backends.get(self.choices.backend_kind).Config))
        return parts

    def text(self, name: str) -> str:
        return str(self.choices[name].value() or "")

    @property
    def source(self) -> str:
        return self.text("source")

    @property
    def served_by(self) -> str:
        """The kind of backend where the chosen weights answer from deployments only; empty for any other."""
        saved = self.chosen_checkpoint()
        kind = str(saved.run.config.get("backend", {}).get("kind", "local")) if saved else "local"
        if self.source == "model":
            kind = self.choices.backend_kind
        return kind if _registered(backends, kind) is not None and serves(kind) else ""

    def chosen_checkpoint(self) -> Checkpoint | None:
        """Before anything is validated; None too for one that the person may not see."""
        chosen = self.text("checkpoint")
        if self.source != "checkpoint" or not (chosen.isascii() and chosen.isdecimal() and len(chosen) < 19):
            return None
        found: Checkpoint | None = self.choices.fields["checkpoint"].queryset.filter(pk=int(chosen)).first()  # type: ignore[attr-defined]
        return found

    def asked(self) -> Asked:
        """Who would answer, for a form whose consent is still missing. Raises ConfigError with what else is."""
        if (saved := self.chosen_checkpoint()) is not None:
            run = saved.run
            backend = BackendChoice.model_validate(run.config["backend"])
            return Asked(run.project, backend, run.model_name, saved.sampler_uri)
        settings = self.settings["backend"]
        if not (self.choices.is_valid() and settings.is_valid()):
            raise ConfigError(" ".join(mistakes_in(self.choices, settings)))
        chosen = self.choices.cleaned_data
        project = (chosen["benchmark"] or chosen["dataset_version"].dataset).project
        return Asked(project, BackendChoice(kind=self.choices.backend_kind, params=settings.params()), chosen["model_name"], None)

    @property
    def is_new_benchmark(self) -> bool:
        return not self.text("benchmark")

    @property
    def runs_here(self) -> bool:
        """The chosen model is opened on this machine."""
        return bool(getattr(backends.get(self.choices.backend_kind), "computes_here", False))

    def backend_sentence(self) -> str:
        return str(getattr(backends.get(self.choices.backend_kind), "summary", ""))

    def verifier_sentence(self) -> str:
        return str(getattr(_registered(verifiers, self.text("verifier")), "summary", ""))

    def num_errors(self) -> int:
        return len(self.choices.errors) + sum(len(form.errors) for form in self.settings.values())

    def mistakes(self) -> list[str]:
        """Every error with the label of its field."""
        return mistakes_in(self.choices, *self.settings.values())

    def is_valid(self) -> bool:
        if not all([self.choices.is_valid(), *[form.is_valid() for form in self.settings.values()]]):
            return False
        chosen = self.choices.cleaned_data
        self.benchmark: Benchmark | None = chosen["benchmark"]
        self.checkpoint: Checkpoint | None = chosen["checkpoint"] if self.source == "checkpoint" else None
        if self.benchmark is not None:
            if self.benchmark.dataset_version is None:
                self.choices.add_error("benchmark", "The tasks of this benchmark were deleted; choose another one.")
                return False
            self.version, self.verifier = self.benchmark.dataset_version, self.benchmark.verifier
            self.split = self.benchmark.split or None
        else:
            self.version = chosen["dataset_version"]
            self.split = chosen.get("split") or None
            self.verifier = {"kind": chosen["verifier"], "params": self.settings["verifier"].params()}
        values = {
            "name": chosen["name"].strip() or self._name(),
            **self._answering(),
            "data": {"dataset": self.version.reference, "split": self.split},
            "verifier": self.verifier,
            "sampling": self.settings["sampling"].params(),
            **self.settings["attempts"].params(),
        }
        try:
            self.config = EvalConfig.from_values(values)
        except ConfigError as error:
            self.refuse(error)
            return False
        return True

    @property
    def benchmark_name(self) -> str:
        """What a new benchmark is to be called; empty for a name drawn from its tasks and verifier."""
        return str(self.choices.cleaned_data["benchmark_name"]).strip()

    def _answering(self) -> dict[str, Any]:
        """`model` and `backend`, or `endpoint`, of the config."""
        chosen = self.choices.cleaned_data
        if self.source == "endpoint":
            credential = chosen["credential"]
            return {"endpoint": {**self.settings["endpoint"].params(), "credential": credential.name if credential else None}}
        serving = {"serving": self.settings["serving"].params()} if "serving" in self.settings else {}
        if self.checkpoint is not None:
            run = self.checkpoint.run
            model = {"name": run.model_name or STARTER_NAME, "checkpoint": self.checkpoint.sampler_uri}
            return {"model": model, "backend": run.config.get("backend", {"kind": "local"}), **serving}
        return {
            "model": {"name": chosen["model_name"]},
            "backend": {"kind": self.choices.backend_kind, "params": self.settings["backend"].params()},
            **serving,
        }

    def _name(self) -> str:
        chosen = self.choices.cleaned_data
        subject = chosen["model_name"]
        if self.checkpoint is not None:
            subject = f"{self.checkpoint.run.name} step {self.checkpoint.step}"
        elif self.source == "endpoint":
            subject = str(self.settings["endpoint"].params()["model"])
        return f"{subject} on {self.benchmark.name if self.benchmark else self.version.dataset.name}"[:200]

    def refuse(self, error: ConfigError) -> None:
        """Put somebody else's refusal at the field it names, else on top."""
        path = [str(part) for part in error.path]
        part = self.settings.get(path[0]) if path else None
        if part is not None and path[-1] in part.fields:
            part.add_error(path[-1], str(error))
            return
        if path and path[0] in self.settings.get("attempts", forms.Form()).fields:
            self.settings["attempts"].add_error(path[0], str(error))
            return
        model = {"model": "model_name", "checkpoint": "checkpoint"}.get(self.source)
        tasks = "dataset_version" if self.is_new_benchmark else "benchmark"
        places = {"name": "name", "model": model, "data": tasks, "verifier": "verifier" if self.is_new_benchmark else "benchmark"}
        places |= {"benchmark": "benchmark", "benchmark_name": "benchmark_name"}
        places |= {"backend": "backend" if self.source == "model" else None}
        places["endpoint"] = "credential" if path[-1:] == ["credential"] else None
        self.choices.add_error(places.get(path[0]) if path else None, str(error))


def start_from(config: EvalConfig) -> dict[str, Any]:
    """Starting values for a form that repeats this eval; benchmark, checkpoint and credential are for the caller to find."""
    params: dict[str, Any] = {
        "attempts": config.model_dump(include=set(AttemptSettings.model_fields)),
        "sampling": config.sampling.model_dump(),
        "verifier": config.verifier.params,
    }
    start: dict[str, Any] = {"name": config.name, "verifier": config.verifier.kind, "params": params, "split": config.data.split}
    if config.endpoint is not None:
        params["endpoint"] = config.endpoint.model_dump(include=set(EndpointSettings.model_fields))
        return {**start, "source": "endpoint"}
    assert config.model is not None
    if config.serving is not None:  # but for the consent, which is of one eval
        params["serving"] = config.serving.model_dump(exclude={"accept_billing"})
    params["backend"] = unagreed(config.backend.kind, config.backend.params)
    return {**start, "source": "model", "backend": config.backend.kind, "model_name": config.model.name}


def as_agreed(data: QueryDict) -> QueryDict:
    """What was typed, as if the price were agreed to: whoever is to agree sees first to what."""
    typed = data.copy()
    typed["serving-accept_billing"] = "true"
    return typed


def benchmarks_for(user: User) -> QuerySet[Benchmark]:
    """Those whose tasks are still there, newest first."""
    found: QuerySet[Benchmark] = Benchmark.objects.editable_by(user).exclude(dataset_version=None)
    return found.select_related("dataset_version__dataset").order_by("-pk")


def task_versions_for(user: User) -> QuerySet[DatasetVersion]:
    return ready_versions(user).filter(format=Format.TASK)


def words(kind: str) -> str:
    return kind.replace("_", " ")


def _registered(registry: Any, kind: str) -> Any:
    """The registered class, or None: the choice itself then says what is wrong."""
    try:
        return registry.get(kind)
    except ConfigError:
        return None
