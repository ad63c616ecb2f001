"""What a person types to start a run: the choices. Settings of algorithm and backend are drawn from their Configs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from django import forms
from django.db.models import Q, QuerySet
from django.utils.timezone import now
from huggingface_hub.constants import HF_HUB_CACHE

from evsys_web.accounts.models import User
from evsys_web.config_forms import ConfigForm, lines_of, mistakes_in
from evsys_web.datasets.models import DatasetVersion
from evsys_web.datasets.splits import TRAIN, VALIDATION
from evsys_web.runs.backends import check_model_name, unagreed
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.backends.local.models import STARTER_NAME
from recipes.config import ModelConfig, RunConfig
from recipes.effects import ignored_by
from recipes.errors import ConfigError
from recipes.presets import recommended
from recipes.prices import models_of, models_offered
from recipes.registry import algorithms, backends, backends_for, uses_backend

DEFAULT_ALGORITHM = "sft"
NUM_CHECKPOINTS_OFFERED = 50
NUM_MODELS_OFFERED = 30


class VersionField(forms.ModelChoiceField[DatasetVersion]):
    def label_from_instance(self, version: DatasetVersion) -> str:
        return f"{version.reference} ({version.num_rows:,} {version.get_format_display().lower()} rows)"


def offer_splits(form: forms.Form, *, first: tuple[str, str] | None = None) -> DatasetVersion | None:
    """Fills the field `split` with those of the version chosen in `dataset_version`, after a `first` choice if there is one, and
    gives that version; a version without splits has nothing to choose, so the field goes."""
    chosen = str(form["dataset_version"].value() or "")
    versions = form.fields["dataset_version"].queryset  # type: ignore[attr-defined]
    version: DatasetVersion | None = versions.filter(pk=int(chosen)).first() if chosen.isdecimal() and len(chosen) < 19 else None
    if version is None or not version.splits:
        del form.fields["split"]
        return None
    field = form.fields["split"]
    assert isinstance(field, forms.ChoiceField)
    field.choices = [*([first] if first else []), *_split_choices(version)]
    return version


def _split_choices(version: DatasetVersion) -> list[tuple[str, str]]:
    return [(each["name"], f"{each['name']} ({each['num_rows']:,} rows)") for each in version.splits]


def _tell_of_splits(field: forms.Field, version: DatasetVersion) -> None:
    """Which split a run takes unless another is chosen, and what its loss is measured on."""
    assert isinstance(field, forms.ChoiceField)
    if version.has_split(TRAIN):
        field.initial = TRAIN
    else:
        field.choices = [("", "Choose a split"), *_split_choices(version)]
    if version.has_split(VALIDATION):
        field.help_text = f"{field.help_text} The loss is measured on {VALIDATION}, unless that is what it learns from."


@dataclass(frozen=True)
class Shown:
    """What the settings on a page were drawn for, from its hidden field; "" for what that does not say."""

    model_name: str
    algorithm: str
    backend: str

    @classmethod
    def of(cls, text: str) -> Shown:
        model_name, algorithm, backend, *_ = [*text.split("|"), "", "", ""]
        return cls(model_name, algorithm, backend)


class CheckpointField(forms.ModelChoiceField[Checkpoint]):
    def label_from_instance(self, checkpoint: Checkpoint) -> str:
        return f"{checkpoint.run.name} · step {checkpoint.step:,} ({checkpoint.name})"


class ChoicesForm(forms.Form):
    """Everything that is chosen rather than tuned."""

    name = forms.CharField(max_length=200, required=False, help_text="What people call this run; left empty, it gets a name.")
    dataset_version = VersionField(
        queryset=DatasetVersion.objects.none(),
        label="Dataset",
        empty_label="Choose a dataset",
        help_text="A version never changes.",
    )
    split = forms.ChoiceField(label="Split", help_text="The rows it learns from.")
    model_name = forms.CharField(
        label="Model", initial=STARTER_NAME, max_length=500, help_text=ModelConfig.model_fields["name"].description or ""
    )
    checkpoint = CheckpointField(
        queryset=Checkpoint.objects.none(),
        required=False,
        label="Begin from",
        empty_label="the model as it is",
        help_text="Weights that an earlier run of the same model saved; the optimizer starts fresh.",
    )
    algorithm = forms.ChoiceField(help_text="How the model learns from the rows.")
    backend = forms.ChoiceField(label="Trains on", help_text="Where the weights live and the work is done.")
    submission_key = forms.CharField(max_length=200, widget=forms.HiddenInput)
    cloned_from = forms.ModelChoiceField(queryset=TrainingRun.objects.none(), required=False, widget=forms.HiddenInput)
    shown_for = forms.CharField(required=False, widget=forms.HiddenInput)
    use_required_attribute = False

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial={"submission_key": uuid.uuid4().hex, **(initial or {})})
        self._offer_versions(versions_for(user))
        version = offer_splits(self)
        if version is not None:
            _tell_of_splits(self.fields["split"], version)
        self._offer_checkpoints(checkpoints_for(user))
        self.fields["cloned_from"].queryset = TrainingRun.objects.visible_to(user)  # type: ignore[attr-defined]
        self.fields["algorithm"].choices = [(kind, _words(kind)) for kind in algorithms.kinds()]  # type: ignore[attr-defined]
        self._offer_backends()
        self.fields["model_name"].widget.attrs.update({"list": "models", "autocomplete": "off", "spellcheck": "false"})

    def clean_model_name(self) -> str:
        name = str(self.cleaned_data["model_name"]).strip()
        try:
            check_model_name(str(self["backend"].value() or ""), name)
        except ConfigError as error:
            raise forms.ValidationError(str(error)) from None
        return name

    def _offer_versions(self, allowed: QuerySet[DatasetVersion]) -> None:
        """Those whose rows the algorithm learns from, and the one already chosen; any that the person may see is accepted."""
        field = self.fields["dataset_version"]
        assert isinstance(field, VersionField)
        field.queryset = allowed
        needed = format_of(str(self["algorithm"].value() or ""))
        chosen = str(self["dataset_version"].value() or "")
        fits = Q() if needed is None else Q(format=needed)
        if chosen.isdecimal() and len(chosen) < 19:
            fits |= Q(pk=int(chosen))
        offered = list(allowed.filter(fits))
        field.choices = [("", field.empty_label), *((each.pk, field.label_from_instance(each)) for each in offered)]
        kind = _words(str(self["algorithm"].value() or ""))
        if needed is not None and not offered:
            self["dataset_version"].help_text = f"No dataset here holds {needed} rows, which {kind} learns from."
        if misfit := next((each for each in offered if needed is not None and each.format != needed), None):
            self[
                "dataset_version"
            ].help_text = f"{kind} learns from {needed} rows, and {misfit.reference} holds {misfit.format} rows."

    def _offer_backends(self) -> None:
        """Those that the algorithm trains on. A form that is not sent yet moves to one, and to a model of it where it was drawn
        for another backend: what was typed since stays, and is refused when the form is sent."""
        field = self.fields["backend"]
        assert isinstance(field, forms.ChoiceField)
        algorithm = str(self["algorithm"].value() or "")
        usable = backends_for(algorithm) if _class_of(algorithms, algorithm) else backends.kinds()
        field.choices = [(kind, _words(kind)) for kind in usable]
        if self.is_bound or not usable:
            return
        if self.initial.get("backend") not in usable:
            self.initial["backend"] = usable[0]
        if Shown.of(str(self.initial.get("shown_for") or "")).backend == self.initial["backend"]:
            return
        self.initial["model_name"] = model_fitting(self.initial["backend"], str(self.initial.get("model_name") or STARTER_NAME))

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


class RunForm:
    """The choices and the two Config forms that they call for, validated together. `config` and `version` after `is_valid()`."""

    config: RunConfig
    version: DatasetVersion

    def __init__(self, user: User, data: Mapping[str, Any] | None = None, *, start: Mapping[str, Any] | None = None) -> None:
        """`data`: what was posted. `start`: starting values of the choices, plus `algorithm_params` and `backend_params`."""
        start = dict(start or {})
        params = {"algorithm": start.pop("algorithm_params", None), "backend": start.pop("backend_params", None)}
        self.choices = ChoicesForm(user, data, initial={"algorithm": DEFAULT_ALGORITHM, "backend": "local", **start})
        self.preset = recommended(self.text("model_name"), self.text("algorithm"))
        self.settings: dict[str, ConfigForm] = {}
        backend = _class_of(backends, self.text("backend"))
        algorithm = _class_of(algorithms, self.text("algorithm"))
        self.needs_backend: bool = getattr(algorithm, "needs_backend", True)  # an installed algorithm need not know the word
        for part, registered in (("algorithm", algorithm), ("backend", backend if self.needs_backend else None)):
            if registered is not None:
                initial = params[part] if params[part] is not None else self.preset.params if part == "algorithm" else {}
                ignored: frozenset[str] = frozenset()
                if part == "algorithm":
                    ignored = ignored_by(algorithm) | ignored_by(backend if uses_backend(algorithm) else None)
                self.settings[part] = ConfigForm(registered.Config, data, prefix=part, initial=initial, ignored=ignored)
        self._leave_out_unused(algorithm, backend)

    def _leave_out_unused(self, algorithm: Any, backend: Any) -> None:
        """Settings of the backend that mean nothing to this algorithm keep their defaults."""
        unused = getattr(algorithm, "unused_backend_fields", None)
        for name in getattr(backend, "unused_by_steps", ()) if unused is None else unused:
            if "backend" in self.settings:
                self.settings["backend"].fields.pop(name, None)

    def text(self, name: str) -> str:
        return str(self.choices[name].value() or "")

    def sentence(self, part: str) -> str:
        """What the chosen algorithm or backend says of itself, in its class attribute `summary`."""
        registered = _class_of(algorithms if part == "algorithm" else backends, self.text(part))
        return str(getattr(registered, "summary", ""))

    def algorithm_sentence(self) -> str:
        return self.sentence("algorithm")

    def backend_sentence(self) -> str:
        return self.sentence("backend")

    @property
    def shown_for(self) -> str:
        """What the settings on the page were drawn for: untouched ones follow when the choice changes."""
        return "|".join(self.text(name) for name in (field.name for field in fields(Shown)))

    def num_errors(self) -> int:
        return len(self.choices.errors) + sum(len(form.errors) for form in self.settings.values())

    def is_valid(self) -> bool:
        if not all([self.choices.is_valid(), *[form.is_valid() for form in self.settings.values()]]):
            return False
        chosen = self.choices.cleaned_data
        self.version = chosen["dataset_version"]
        checkpoint = chosen["checkpoint"]
        values = {
            "name": chosen["name"].strip() or f"{self.version.dataset.name} {chosen['algorithm']}",
            "model": {
                "name": chosen["model_name"],
                "init_from_checkpoint": checkpoint.sampler_uri if checkpoint else None,
            },
            "data": {"dataset": self.version.reference, "split": chosen.get("split")},
            **{part: {"kind": chosen[part], "params": form.params()} for part, form in self.settings.items()},
        }
        try:
            self.config = RunConfig.from_values(values)
            self.config.check_weights()
        except ConfigError as error:
            self.refuse(error)
            return False
        return True

    def mistakes(self) -> list[str]:
        """Every error with the label of its field."""
        return mistakes_in(self.choices, *self.settings.values())

    def refuse(self, error: ConfigError) -> None:
        """Put somebody else's refusal at the field it names, else on top."""
        path = [str(part) for part in error.path]
        if path == ["data", "split"] and "split" in self.choices.fields:
            self.choices.add_error("split", str(error))
            return
        part = self.settings.get(path[0]) if path else None
        if part is not None and path[1:2] == ["params"] and len(path) > 2 and path[2] in part.fields:
            part.add_error(path[2], str(error))
            return
        places = {
            "name": "name",
            "model.name": "model_name",
            "model.init_from_checkpoint": "checkpoint",
            "data": "dataset_version",
            "backend.kind": "backend",
        }
        field = places.get(".".join(path)) or (places.get(path[0]) if path else None)
        self.choices.add_error(field, str(error))


def following(user: User, data: Mapping[str, Any]) -> RunForm:
    """The form for choices that were just changed: what was typed stays, what nobody touched takes the new starting values."""
    typed = RunForm(user, data)
    start: dict[str, Any] = {name: typed.text(name) for name in typed.choices.fields}
    start["dataset_version"] = fitting_version(user, typed.text("algorithm"), typed.text("dataset_version"))
    shown = Shown.of(typed.text("shown_for"))
    before = start_texts(shown.model_name, shown.algorithm)
    now = start_texts(typed.text("model_name"), typed.text("algorithm"))
    params: dict[str, dict[str, str]] = {part: {} for part in typed.settings}
    for part, form in typed.settings.items():
        for name in form.fields:
            sent = data.get(form.add_prefix(name))
            if sent is None or (part == "algorithm" and lines_of(sent) == before.get(name)):
                if part == "algorithm" and name in now:
                    params[part][name] = now[name]
            else:
                params[part][name] = sent
    return RunForm(user, start={**start, **{f"{part}_params": values for part, values in params.items()}})


def fitting_version(user: User, algorithm: str, chosen: str) -> str:
    """The number of the version that was chosen if the algorithm learns from its rows, else of the newest that it does learn
    from; "" when there is none."""
    needed = format_of(algorithm)
    if needed is None or not chosen:
        return chosen
    fitting = versions_for(user).filter(format=needed).order_by("-created_at", "-pk")
    pks = [str(pk) for pk in fitting.values_list("pk", flat=True)]
    return chosen if chosen in pks else next(iter(pks), "")


def start_from(config: RunConfig) -> dict[str, Any]:
    """Starting values for a form that repeats this run, but for its consents; the dataset is for the caller to find."""
    return {
        "name": config.name,
        "split": config.data.split,
        "model_name": config.model.name,
        "init_from_checkpoint": config.model.init_from_checkpoint,
        "algorithm": config.algorithm.kind,
        "backend": config.backend.kind,
        "algorithm_params": config.algorithm.params,
        "backend_params": unagreed(config.backend.kind, config.backend.params),
    }


def versions_for(user: User) -> QuerySet[DatasetVersion]:
    """Those that some run can learn from; which one, its algorithm says."""
    return ready_versions(user)


def ready_versions(user: User) -> QuerySet[DatasetVersion]:
    return (
        DatasetVersion.objects.ready().editable_by(user).select_related("dataset").order_by("dataset__name", "-number").distinct()
    )


def checkpoints_for(user: User) -> QuerySet[Checkpoint]:
    """Those with weights to begin from, newest first; none that have expired."""
    runs = TrainingRun.objects.visible_to(user).values("pk")
    kept = Checkpoint.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now()), run__in=runs).exclude(sampler_uri="")
    return kept.select_related("run").order_by("-created_at", "-pk")


def model_fitting(backend: str, name: str) -> str:
    """`name` where it can mean a model on this kind of backend, else one that it has."""
    try:
        check_model_name(backend, name.strip())
    except ConfigError:
        return next(iter(models_of(backend)), STARTER_NAME)
    return name


def models_on_offer(user: User) -> list[str]:
    """The starter first, then what lies in the hub's cache here, then what earlier runs used, then what hosts train."""
    cached = [
        place.name.removeprefix("models--").replace("--", "/")
        for place in sorted(Path(HF_HUB_CACHE).glob("models--*"))
        if place.is_dir()
    ]
    used = TrainingRun.objects.visible_to(user).newest_first().values_list("config__model__name", flat=True)[:100]
    here = list(dict.fromkeys([STARTER_NAME, *cached, *filter(None, used)]))[:NUM_MODELS_OFFERED]
    return list(dict.fromkeys([*here, *models_offered()]))


def start_texts(model_name: str, algorithm: str) -> dict[str, str]:
    registered = _class_of(algorithms, algorithm)
    if registered is None:
        return {}
    return ConfigForm(registered.Config, prefix="algorithm", initial=recommended(model_name, algorithm).params).texts()


def format_of(algorithm: str) -> str | None:
    """The rows that it learns from; None when it does not say, or is not known."""
    return getattr(_class_of(algorithms, algorithm), "row_format", None)


def algorithm_for(format: str, first: str = DEFAULT_ALGORITHM) -> str:
    """One that learns from such rows: `first` if it does, else one that may choose its backend, else one that may not."""

    def is_bound(kind: str) -> bool:
        registered = _class_of(algorithms, kind)
        return not getattr(registered, "needs_backend", True) or getattr(registered, "runs_on", None) is not None

    kinds = sorted(algorithms.kinds(), key=is_bound)
    return next((kind for kind in (first, *kinds) if format_of(kind) == format), first)


def _class_of(registry: Any, kind: str) -> Any:
    """The registered class, or None: the choice itself then says what is wrong."""
    try:
        return registry.get(kind)
    except ConfigError:
        return None


def _words(kind: str) -> str:
    return kind.replace("_", " ")
