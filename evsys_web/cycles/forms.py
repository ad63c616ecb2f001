"""What a person types to start a cycle: a model, what it learns from, what judges it. Settings are drawn from CycleConfig."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django import forms
from django.db.models import QuerySet
from pydantic import BaseModel

from evsys_web.accounts.models import User
from evsys_web.config_forms import ConfigForm, mistakes_in
from evsys_web.cycles.models import Cycle, short_name
from evsys_web.evals.forms import Asked, BenchmarkField, benchmarks_for, part_of, words
from evsys_web.evals.models import Benchmark
from evsys_web.runs.backends import check_model_name, unagreed
from evsys_web.runs.forms import CheckpointField, checkpoints_for, model_fitting
from evsys_web.runs.models import Checkpoint
from recipes.backends.local.models import STARTER_NAME
from recipes.config import BackendChoice
from recipes.curation import CurationSettings
from recipes.cycle_config import CycleConfig, StopRule, TasksChoice, evals_of, trains_on
from recipes.effects import ignored_by
from recipes.errors import ConfigError
from recipes.eval_config import EvalModel, SamplingSettings, Serving
from recipes.presets import Preset, recommended
from recipes.registry import algorithms, backends, evaluated_backends, serves, uses_backend
from recipes.rows import RowFormat

NUM_CHECKPOINTS_OFFERED = 50
RoundSettings = part_of(CycleConfig, "RoundSettings", "rounds", "attempts", "judge_attempts", "concurrency")
SideSettings = part_of(TasksChoice, "SideSettings", "max_tasks")
SIDES = ("learn", "judge")


class ChoicesForm(forms.Form):
    """Everything that is chosen rather than tuned."""

    name = forms.CharField(max_length=200, required=False, help_text="What people call this cycle; left empty, it gets a name.")
    model_name = forms.CharField(label="Model", max_length=500, help_text=EvalModel.model_fields["name"].description or "")
    checkpoint = CheckpointField(
        queryset=Checkpoint.objects.none(),
        required=False,
        label="Begin from",
        empty_label="the model as it is",
        help_text="Weights that an earlier run of the same model saved.",
    )
    backend = forms.ChoiceField(label="Runs on", help_text="Where it is sampled and trained.")
    learn = BenchmarkField(
        queryset=Benchmark.objects.none(),
        label="Learns from",
        empty_label="Choose a benchmark",
        help_text="Right attempts at these tasks become training rows.",
    )
    judge = BenchmarkField(
        queryset=Benchmark.objects.none(),
        label="Is judged by",
        empty_label="Choose a benchmark",
        help_text="Held-out tasks, none of which it learns from.",
    )
    training = forms.ChoiceField(label="Algorithm", help_text="How the model learns from the rows.")
    submission_key = forms.CharField(max_length=200, widget=forms.HiddenInput)
    cloned_from = forms.ModelChoiceField(queryset=Cycle.objects.none(), required=False, widget=forms.HiddenInput)
    use_required_attribute = False

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial={"submission_key": uuid.uuid4().hex, **(initial or {})})
        for side in SIDES:
            self._offer(side, benchmarks_for(user))
        self._offer("cloned_from", Cycle.objects.visible_to(user))
        self._offer_checkpoints(checkpoints_for(user))
        self._choose("training", trainable())
        self._choose("backend", evaluated_backends())
        self.fields["model_name"].widget.attrs.update({"list": "models", "autocomplete": "off", "spellcheck": "false"})

    def clean_model_name(self) -> str:
        name = str(self.cleaned_data["model_name"]).strip()
        try:
            check_model_name(self.backend_kind, name)
        except ConfigError as error:
            raise forms.ValidationError(str(error)) from None
        return name

    def clean(self) -> dict[str, Any]:
        """Both benchmarks lie in one project: it is the cycle's."""
        found = self.cleaned_data
        learn, judge = found.get("learn"), found.get("judge")
        if learn is not None and judge is not None and learn.project_id != judge.project_id:
            self.add_error("judge", "Choose a benchmark of the same project.")
        return found

    @property
    def backend_kind(self) -> str:
        """Any other than a registered one is left to the choice itself."""
        chosen = str(self["backend"].value() or "local")
        return chosen if chosen in evaluated_backends() else "local"

    def _offer(self, name: str, allowed: QuerySet[Any]) -> None:
        self.fields[name].queryset = allowed  # type: ignore[attr-defined]

    def _choose(self, name: str, kinds: list[str]) -> None:
        self.fields[name].choices = [(kind, words(kind)) for kind in kinds]  # type: ignore[attr-defined]

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


class CycleForm:
    """The choices and the Config forms that they call for, validated together. `config` after `is_valid()`."""

    config: CycleConfig

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, start: Mapping[str, Any] | None = None) -> None:
        """`data`: what was posted. `start`: starting values of the choices, and under `params` those of the parts' settings."""
        start = dict(start or {})
        params: dict[str, Mapping[str, Any]] = dict(start.pop("params", {}))
        first = {"model_name": STARTER_NAME, "training": "sft", "backend": "local"}
        self.choices = ChoicesForm(user, data, initial={**first, **start})
        self.preset: Preset = recommended(self.text("model_name"), self.text("training"))
        params.setdefault("training", self.preset.params)
        algorithm, backend = _registered(algorithms, self.text("training")), _registered(backends, self.text("backend"))
        self.settings: dict[str, ConfigForm] = {}
        for part, config_class in self._parts():
            ignored = (
                ignored_by(algorithm) | ignored_by(backend if uses_backend(algorithm) else None)
                if part == "training"
                else frozenset()
            )
            self.settings[part] = ConfigForm(config_class, data, prefix=part, initial=params.get(part), ignored=ignored)
        for name in getattr(algorithm, "unused_backend_fields", frozenset()) & getattr(backend, "unused_by_evals", frozenset()):
            self.settings["backend"].fields.pop(name, None)

    def _parts(self) -> list[tuple[str, type[BaseModel]]]:
        parts: list[tuple[str, type[BaseModel]]] = [(side, SideSettings) for side in SIDES]
        parts += [("round", RoundSettings), ("sampling", SamplingSettings), ("curation", CurationSettings), ("stop", StopRule)]
        for part, registry in (("training", algorithms), ("backend", backends)):
            if (registered := _registered(registry, self.text(part))) is not None:
                parts.append((part, registered.Config))
        if serves(self.choices.backend_kind):
            parts.append(("serving", Serving))
        return parts

    def text(self, name: str) -> str:
        return str(self.choices[name].value() or "")

    def training_sentence(self) -> str:
        return str(getattr(_registered(algorithms, self.text("training")), "summary", ""))

    def asked(self) -> Asked:
        """Who would answer, for a form whose consent is still missing. Raises ConfigError with what else is."""
        if mistakes := mistakes_in(self.choices, *(self.settings[part] for part in ("round", "backend", "serving"))):
            raise ConfigError(" ".join(mistakes))
        chosen = self.choices.cleaned_data
        checkpoint: Checkpoint | None = chosen["checkpoint"]
        backend = BackendChoice(kind=chosen["backend"], params=self.settings["backend"].params())
        return Asked(chosen["judge"].project, backend, chosen["model_name"], checkpoint.sampler_uri if checkpoint else None)

    def num_evals(self) -> int:
        """After `asked`: how many there will be at most."""
        return evals_of(int(self.settings["round"].params()["rounds"]))

    def num_errors(self) -> int:
        return len(self.choices.errors) + sum(len(form.errors) for form in self.settings.values())

    def mistakes(self) -> list[str]:
        """Every error with the label of its field."""
        return mistakes_in(self.choices, *self.settings.values())

    def is_valid(self) -> bool:
        if not all([self.choices.is_valid(), *[form.is_valid() for form in self.settings.values()]]):
            return False
        chosen = self.choices.cleaned_data
        self.judge: Benchmark = chosen["judge"]
        checkpoint: Checkpoint | None = chosen["checkpoint"]
        values = {
            "name": chosen["name"].strip() or f"{short_name(chosen['model_name'])} on {self.judge.name}"[:200],
            "model": {"name": chosen["model_name"], "checkpoint": checkpoint.sampler_uri if checkpoint else None},
            **{side: {"benchmark": str(chosen[side].pk), **self.settings[side].params()} for side in SIDES},
            **self.settings["round"].params(),
            **{part: self.settings[part].params() for part in ("sampling", "curation", "stop")},
            **{part: {"kind": chosen[part], "params": self.settings[part].params()} for part in ("training", "backend")},
            **({"serving": self.settings["serving"].params()} if "serving" in self.settings else {}),
        }
        try:
            self.config = CycleConfig.from_values(values)
        except ConfigError as error:
            self.refuse(error)
            return False
        return True

    def refuse(self, error: ConfigError) -> None:
        """Put somebody else's refusal at the field it names, else on top."""
        path = [str(part) for part in error.path] or [""]
        part = self.settings.get("round" if path[0] in RoundSettings.model_fields else path[0])
        if part is not None and path[-1] in part.fields:
            part.add_error(path[-1], str(error))
            return
        model = "checkpoint" if path[-1] == "checkpoint" else "model_name"
        field = model if path[0] == "model" else path[0]
        self.choices.add_error(field if field in self.choices.fields else None, str(error))


def start_from(config: CycleConfig) -> dict[str, Any]:
    """Starting values for a form that repeats this cycle; benchmarks and checkpoint are for the caller to find."""
    sides = {side: {"max_tasks": getattr(config, side).max_tasks} for side in SIDES}
    parts = {part: getattr(config, part).model_dump() for part in ("sampling", "curation", "stop")}
    if config.serving is not None:  # but for the consent, which is of one cycle
        parts["serving"] = config.serving.model_dump(exclude={"accept_billing"})
    chosen = {"training": config.training.params, "backend": unagreed(config.backend.kind, config.backend.params)}
    return {
        "name": config.name,
        "model_name": config.model.name,
        "training": config.training.kind,
        "backend": config.backend.kind,
        "params": {**sides, **parts, **chosen, "round": config.model_dump(include=set(RoundSettings.model_fields))},
    }


def trainable() -> list[str]:
    """Algorithms that learn from what attempts become, chats, on a backend that makes attempts too."""
    formats = (None, RowFormat.MESSAGES)
    fitting = [kind for kind in algorithms.kinds() if getattr(algorithms.get(kind), "row_format", None) in formats]
    return [kind for kind in fitting if any(trains_on(kind, backend) for backend in evaluated_backends())]


def moved(start: Mapping[str, Any], *, was_on: str) -> dict[str, str]:
    """What follows a choice that was just changed, so that all fit: another backend than `was_on` gets an algorithm that trains
    there, another algorithm a backend that it trains on, and both a model that is to be had there."""
    backend, training = str(start["backend"]), str(start["training"])
    if backend not in evaluated_backends() or training not in trainable():
        return {}
    if not trains_on(training, backend):
        if backend == was_on:
            backend = next((kind for kind in evaluated_backends() if trains_on(training, kind)), backend)
        else:
            training = _algorithm_for(backend) or training
    model_name = str(start["model_name"])
    return {
        "backend": backend,
        "training": training,
        "model_name": model_name if backend == was_on else model_fitting(backend, model_name),
    }


def _algorithm_for(backend: str) -> str:
    """One made for this backend alone, else sft; "" where there is none."""
    fitting = [kind for kind in trainable() if trains_on(kind, backend)]
    own = [kind for kind in fitting if getattr(algorithms.get(kind), "runs_on", None)]
    return next(iter([*own, *(kind for kind in fitting if kind == "sft"), *fitting]), "")


def _registered(registry: Any, kind: str) -> Any:
    """The registered class, or None: the choice itself then says what is wrong."""
    try:
        return registry.get(kind)
    except ConfigError:
        return None
