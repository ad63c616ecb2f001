"""A Django form drawn from any pydantic Config: a widget per field, with bounds, unit and sentence.

The form has no rules of its own: it turns text into what JSON would hold, pydantic decides, and its errors land on the
fields they name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from django import forms
from django.forms.boundfield import BoundField
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

WORDS = {
    "num": "",
    "lora": "LoRA",
    "lr": "learning rate",
    "seq": "sequence",
    "len": "length",
    "eps": "epsilon",
    "grad": "gradient",
    "val": "validation",
    "demo": "demonstration",
    "topk": "top K",
}
WORDS |= {"adam": "Adam", "beta1": "beta 1", "beta2": "beta 2", "dtype": "precision", "kl": "KL"}
"""How abbreviations in settings' names are said; other words stand as they are."""
LONG_TEXT = 2000
"""A text that may be longer than so many characters may have several lines."""


class Knob(forms.Field):
    """One setting. `parse` makes JSON's value of the text, `show` makes text of a value."""

    def __init__(self, *, widget: forms.Widget, optional: bool, **kwargs: Any) -> None:
        super().__init__(required=not optional, widget=widget, **kwargs)
        self.optional = optional
        self.unit = ""
        self.bounds = ""
        self.essential = True
        self.is_ignored = False

    def parse(self, text: str) -> Any:
        return lines_of(text).strip()

    def show(self, value: Any) -> str:
        return str(value.value if isinstance(value, Enum) else value)

    def prepare_value(self, value: Any) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) and not isinstance(value, Enum) else self.show(value)

    def clean(self, value: Any) -> Any:
        """None when nothing was sent, or an optional setting was left empty; other emptiness is pydantic's to judge."""
        if value is None or (self.optional and not value.strip()):
            return None
        return self.parse(value)


class NumberKnob(Knob):
    def show(self, value: Any) -> str:
        return f"{value:.12g}" if isinstance(value, float) else str(value)


class ChoiceKnob(Knob):
    """One of a closed set; also yes and no, so that "not sent" is never mistaken for "no"."""

    def __init__(self, values: Sequence[Any], *, optional: bool) -> None:
        self.values = {self.show(value): value for value in values}
        words = {"true": "yes", "false": "no"} if set(self.values) == {"true", "false"} else {}
        choices = [(text, words.get(text, text.replace("_", " "))) for text in self.values]
        super().__init__(widget=forms.Select(choices=[("", "default"), *choices] if optional else choices), optional=optional)

    def parse(self, text: str) -> Any:
        return self.values.get(text, text)

    def show(self, value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else super().show(value)


class ListKnob(Knob):
    """Numbers or words with commas between them."""

    def parse(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    def show(self, value: Any) -> str:
        return ", ".join(f"{item:.12g}" if isinstance(item, float) else str(item) for item in value)


class JsonKnob(Knob):
    """Whatever has no plainer form: lists of settings, mappings, nested Configs."""

    def __init__(self, *, empty: Any, optional: bool) -> None:
        self.empty = empty
        super().__init__(widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}), optional=optional)

    def parse(self, text: str) -> Any:
        if not text.strip():
            return self.empty
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise forms.ValidationError(f"This is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from None

    def show(self, value: Any) -> str:
        return json.dumps(value, default=_dump, indent=1 if value else None)


class ConfigForm(forms.Form):
    """`initial` are starting values by field name (the Config's own defaults fill the rest). After `is_valid()`, `config` is the
    validated instance. `ignored` names the fields that the chosen backend cannot honour."""

    config: BaseModel
    use_required_attribute = False  # the server says what is missing, at the field

    def __init__(
        self,
        config_class: type[BaseModel],
        data: Mapping[str, Any] | None = None,
        *,
        prefix: str,
        initial: Mapping[str, Any] | None = None,
        ignored: Collection[str] = (),
    ) -> None:
        super().__init__(data, prefix=prefix, initial={**_defaults(config_class), **(initial or {})})
        self.config_class = config_class
        for name, info in config_class.model_fields.items():
            knob = knob_for(name, info)
            knob.is_ignored = name in ignored
            self.fields[name] = knob

    def clean(self) -> dict[str, Any]:
        unreadable = set(self.errors)
        given = {name: value for name, value in self.cleaned_data.items() if self.add_prefix(name) in self.data}
        try:
            self.config = self.config_class.model_validate(given)
        except ValidationError as error:
            for mistake in error.errors():
                if not {*mistake["loc"]} & unreadable:
                    self._place(mistake["loc"], mistake["msg"])
        return self.cleaned_data

    def params(self) -> dict[str, Any]:
        """The validated settings as JSON holds them."""
        return self.config.model_dump(mode="json")

    def texts(self) -> dict[str, str]:
        """What each widget shows, by field name."""
        return {name: str(self[name].value()) for name in self.fields}

    def essentials(self) -> Iterator[BoundField]:
        return (self[name] for name, knob in self.fields.items() if isinstance(knob, Knob) and knob.essential)

    def advanced(self) -> Iterator[BoundField]:
        return (self[name] for name, knob in self.fields.items() if isinstance(knob, Knob) and not knob.essential)

    def has_advanced(self) -> bool:
        return any(True for _ in self.advanced())

    def has_advanced_errors(self) -> bool:
        return any(bound.errors for bound in self.advanced())

    def _place(self, location: tuple[str | int, ...], message: str) -> None:
        """At the field when there is one on this form, else on top; an element of a list is named by its place."""
        text = message.removeprefix("Value error, ")
        text = text[:1].upper() + text[1:]
        name, *rest = location or ("",)
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in rest)
        if name in self.fields:
            self.add_error(str(name), f"Value {place}: {text}" if place else text)
        else:
            self.add_error(None, ": ".join([*map(str, location), text]))


def mistakes_in(*several: forms.Form) -> list[str]:
    """Every error with the label of its field."""
    found = []
    for form in several:
        for name, errors in form.errors.items():
            label = form.fields[name].label or name.replace("_", " ").capitalize() if name in form.fields else ""
            found += [f"{label}: {error}" if label else str(error) for error in errors]
    return found


def knob_for(name: str, info: FieldInfo) -> Knob:
    """The form field for one Config field."""
    annotation, optional, metadata = _unwrapped(info)
    limits = _limits([*info.metadata, *metadata])
    knob = _knob_of_type(annotation, optional, limits)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    knob.label = info.title or label_of(name)
    knob.help_text = info.description or ""
    unit = str(extra.get("unit", ""))
    knob.unit = "" if knob.label.lower().split()[-1] == unit else unit  # "Epochs", not "Epochs epochs"
    knob.essential = bool(extra.get("essential", True))
    knob.bounds = _bounds_sentence(limits) if isinstance(knob, NumberKnob) else ""
    if knob.optional:
        knob.widget.attrs["placeholder"] = "not set"
    return knob


def lines_of(text: str) -> str:
    """Line ends as the Config has them: browsers send two characters for each."""
    return text.replace("\r\n", "\n")


def label_of(name: str) -> str:
    """`lr_warmup_steps` → `Learning rate warmup steps`."""
    label = " ".join(filter(None, (WORDS.get(word, word) for word in name.split("_"))))
    return label[:1].upper() + label[1:]


def _knob_of_type(annotation: Any, optional: bool, limits: Mapping[str, Any]) -> Knob:
    if choices := _choices(annotation):
        return ChoiceKnob(choices, optional=optional)
    if annotation in (int, float):
        return NumberKnob(widget=forms.NumberInput(attrs=_number_attributes(annotation, limits)), optional=optional)
    if annotation is str:
        attributes = {"maxlength": limits["max_length"]} if "max_length" in limits else {}
        if attributes.get("maxlength", 0) > LONG_TEXT:
            return Knob(widget=forms.Textarea(attrs={**attributes, "rows": 5}), optional=optional)
        return Knob(widget=forms.TextInput(attrs=attributes), optional=optional)
    if get_origin(annotation) in (list, tuple, set) and set(get_args(annotation)) <= {int, float, str, Ellipsis}:
        return ListKnob(widget=forms.TextInput(attrs={"inputmode": "text"}), optional=optional)
    return JsonKnob(empty={} if get_origin(annotation) is dict else [], optional=optional)


def _unwrapped(info: FieldInfo) -> tuple[Any, bool, list[Any]]:
    """The annotation without None and Annotated, whether None was allowed, and the constraints found inside."""
    annotation, optional, metadata = info.annotation, False, []
    for _ in range(4):
        if get_origin(annotation) in (Union, UnionType):
            members = get_args(annotation)
            rest = [member for member in members if member is not NoneType]
            optional = optional or len(rest) < len(members)
            if len(rest) != 1:
                break
            annotation = rest[0]
        elif get_origin(annotation) is Annotated:
            annotation, *found = get_args(annotation)
            for item in found:
                metadata.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return annotation, optional, metadata


def _choices(annotation: Any) -> Sequence[Any]:
    if annotation is bool:
        return (True, False)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return list(annotation) if isinstance(annotation, type) and issubclass(annotation, Enum) else ()


def _limits(metadata: list[Any]) -> dict[str, Any]:
    names = ("gt", "ge", "lt", "le", "multiple_of", "max_length")
    return {name: getattr(item, name) for item in metadata for name in names if getattr(item, name, None) is not None}


def _number_attributes(annotation: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {"step": limits.get("multiple_of", 1 if annotation is int else "any"), "autocomplete": "off"}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None:
        attributes["min"] = low
    if high is not None:
        attributes["max"] = high
    return attributes


def _bounds_sentence(limits: Mapping[str, Any]) -> str:
    """`1 to 1,000`, or `above 0, at most 1` where an end is excluded or missing."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    numbers = {
        name: f"{limits[name]:,}" if isinstance(limits[name], int) else f"{limits[name]:g}" for name in words if name in limits
    }
    if set(numbers) == {"ge", "le"}:
        return f"{numbers['ge']} to {numbers['le']}"
    return ", ".join(f"{words[name]} {number}" for name, number in numbers.items())


def _defaults(config_class: type[BaseModel]) -> dict[str, Any]:
    return {
        name: info.get_default(call_default_factory=True)
        for name, info in config_class.model_fields.items()
        if not info.is_required()
    }


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
