"""What a person chooses to make a sweep of a run's settings: axes from the knobs of the run's own form, their values, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django.forms.boundfield import BoundField

from evsys_web.accounts.models import User
from evsys_web.config_forms import ConfigForm, JsonKnob, Knob, ListKnob, NumberKnob
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.forms import RunForm, start_texts
from recipes.errors import ConfigError
from recipes.sweep_config import MAX_RUNS, SEED, SweepConfig, text_of

NUM_AXES = 4
MODEL = "model.name"
NOT_SET = "null"
"""As YAML has it: an optional setting without a value."""


class Offered(NamedTuple):
    """A setting that can be an axis. hint: its unit and bounds, as beside its field."""

    path: str
    label: str
    hint: str
    current: str


class AxisRow(NamedTuple):
    """One line of the form, from 1. error: what is wrong with it."""

    number: int
    path: str
    text: str
    error: str = ""


class SweepForm:
    """The settings of the run as its form sends them, and what is tried. `config` and `version` after `is_valid()`."""

    config: SweepConfig
    version: DatasetVersion

    def __init__(
        self,
        user: User,
        data: Mapping[str, Any] | None = None,
        *,
        start: Mapping[str, Any] | None = None,
        tried: SweepConfig | None = None,
    ) -> None:
        """data: what was posted, by this form or by the run's. start: starting values of an unsent one, as `RunForm` has them;
        tried: the sweep whose axes and seeds it begins with."""
        self.run = RunForm(user, data, start=start)
        self.seeds = _sent(data, "seeds", ", ".join(map(str, tried.matrix.seeds)) if tried else "0, 1, 2")
        axes = list(tried.matrix.axes.items()) if tried else []
        before = [(path, ", ".join(map(text_of, values))) for path, values in axes] + [("", "")] * NUM_AXES
        self.rows = [
            AxisRow(number, _sent(data, f"axis_{number}", path), _sent(data, f"values_{number}", text))
            for number, (path, text) in enumerate(before[:NUM_AXES], 1)
        ]
        self.seeds_error = ""
        self.errors: list[str] = []

    def is_valid(self) -> bool:
        """False with a sentence at the place it is about."""
        if not self.run.is_valid():
            self.errors = self.run.mistakes()
            return False
        axes = self._axes()
        if axes is None:
            return False
        seeds = [_number(part) for part in _parts(self.seeds)]
        try:
            self.config = SweepConfig.from_values(
                {**self.run.config.model_dump(mode="json"), "matrix": {"axes": axes, "seeds": seeds}}
            )
        except ConfigError as error:
            self.refuse(error)
            return False
        self.version = self.run.version
        return True

    def refuse(self, error: ConfigError) -> None:
        """Put a refusal at the axis or the seeds that it names, else on top."""
        match [*map(str, error.path)]:
            case ["matrix", "seeds", *_]:
                self.seeds_error = str(error)
            case ["matrix", "axes", path, *_] if any(row.path == path for row in self.rows):
                self.rows = [row._replace(error=str(error)) if row.path == path else row for row in self.rows]
            case _:
                self.errors.append(str(error))

    def refuse_what_it_cannot_show(self, tried: SweepConfig) -> None:
        """Raises ConfigError for axes beyond those that this form has a field for."""
        shown = {each.path for each in self.offered()}
        beyond = [path for path in tried.matrix.axes if path not in shown]
        if beyond or len(tried.matrix.axes) > NUM_AXES:
            what = f"{beyond[0]} as an axis" if beyond else f"{len(tried.matrix.axes)} axes"
            raise ConfigError(f"This page has no field for {what}. Start it by `manage.py sweep`, or by POST /api/v1/sweeps.")

    def offered(self) -> list[Offered]:
        """Every setting of the run with a plain value; lists and the like can be axes through YAML and the API."""
        found = [Offered(MODEL, "Model", "", self.run.text("model_name"))]
        for part, form in self.run.settings.items():
            for bound in form:
                path = f"{part}.params.{bound.name}"
                if isinstance(knob := bound.field, Knob) and not isinstance(knob, ListKnob | JsonKnob) and path != SEED:
                    hint = ", ".join(filter(None, (knob.unit, knob.bounds, _choices_of(bound))))
                    found.append(Offered(path, str(knob.label), hint, str(bound.value() or "")))
        return found

    def base(self) -> Iterator[tuple[str, str]]:
        """The run's settings as hidden fields carry them."""
        for form in (self.run.choices, *self.run.settings.values()):
            for bound in form:
                value = bound.value()
                yield bound.html_name, "" if value is None else str(value)

    def base_words(self) -> dict[str, str]:
        """The run's settings in a few words."""
        usual = {"algorithm": start_texts(self.run.text("model_name"), self.run.text("algorithm"))}
        changed = []
        for part, form in self.run.settings.items():
            before = usual.get(part) or ConfigForm(form.config_class, prefix=part).texts()
            changed += [f"{name} {text}" for name, text in form.texts().items() if text != before.get(name)]
        chosen = str(self.run.text("dataset_version"))
        labels = dict(self.run.choices.fields["dataset_version"].choices)  # type: ignore[attr-defined]
        return {
            "dataset": next((str(label) for pk, label in labels.items() if chosen and str(pk) == chosen), ""),
            "model": self.run.text("model_name"),
            "algorithm": self.run.text("algorithm"),
            "backend": self.run.text("backend"),
            "changed": ", ".join(changed),
        }

    @property
    def num_errors(self) -> int:
        return len(self.errors) + bool(self.seeds_error) + sum(bool(row.error) for row in self.rows)

    def mistakes(self) -> list[str]:
        return [*self.errors, *(row.error for row in self.rows if row.error), *filter(None, [self.seeds_error])]

    def _axes(self) -> dict[str, list[Any]] | None:
        """What was typed, by path; None when a row cannot be read, which then says why."""
        axes: dict[str, list[Any]] = {}
        rows = []
        for row in self.rows:
            values, error = self._values(row, taken=axes)
            rows.append(row._replace(error=error))
            if values is not None:
                axes[row.path] = values
        self.rows = rows
        return None if any(row.error for row in rows) else axes

    def _values(self, row: AxisRow, *, taken: Mapping[str, Any]) -> tuple[list[Any] | None, str]:
        """Values, and an error: at most one of the two."""
        if not row.path and not row.text.strip():
            return None, ""
        if not row.path:
            return None, "Choose the setting that takes these values."
        if row.path not in {each.path for each in self.offered()}:
            return None, f"{row.path} is no setting of this algorithm and backend. Choose another one."
        if row.path in taken:
            return None, "This setting is in another row already. Put all its values there."
        if not (parts := _parts(row.text)):
            return None, "Write the values to try, with commas between them."
        return [self._value(row.path, part) for part in parts], ""

    def _value(self, path: str, text: str) -> Any:
        part, _, name = path.partition(".params.")
        form: ConfigForm | None = self.run.settings.get(part)
        knob = form.fields.get(name) if form else None
        if isinstance(knob, Knob) and knob.optional and text == NOT_SET:
            return None
        if isinstance(knob, NumberKnob):
            return _number(text)
        return knob.parse(text) if isinstance(knob, Knob) else text


def _sent(data: Mapping[str, Any] | None, name: str, otherwise: str) -> str:
    """A form that was sent without the field (the run's) leaves it as it begins."""
    return str(data[name]) if data is not None and name in data else otherwise


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.replace("\0", "").split(",") if part.strip()]


def _number(text: str) -> Any:
    """As a number where it is one; else as typed, for the setting itself to refuse."""
    for kind in (int, float):
        try:
            return kind(text) if len(text) <= 40 else text
        except ValueError:
            continue
    return text


def _choices_of(bound: BoundField) -> str:
    values = getattr(bound.field, "values", None)
    return f"one of {', '.join(values)}" if isinstance(values, dict) else ""


def bound_sentence() -> str:
    return f"At most {MAX_RUNS} runs at once."
