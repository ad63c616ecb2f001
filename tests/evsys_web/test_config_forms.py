"""Forms drawn from Configs: what they show, what they accept, and where errors land."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from evsys_web.config_forms import ConfigForm
from recipes.config import BaseAlgorithmConfig, knob

pytestmark = pytest.mark.once


class Shape(StrEnum):
    FLAT = "flat"
    LINEAR_DECAY = "linear_decay"


class Everything(BaseModel):
    """What an installed package might bring: no base class of ours, no json_schema_extra."""

    rate: float = Field(2e-4, gt=0, le=1, description="Peak step size.")
    count: int = knob(6, "How many.", unit="rows", ge=1, le=1000, multiple_of=2, essential=False)
    cap: int | None = Field(None, ge=1)
    nested_bound: Annotated[float, Field(ge=0)] | None = None
    flag: bool = True
    maybe: bool | None = None
    shape: Shape = Shape.FLAT
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    word: str = "plain"
    note: str | None = Field(None, max_length=5)
    shares: list[float] = [0.5, 1.0]
    table: dict[str, int] = {}

    @field_validator("word")
    @classmethod
    def _no_shouting(cls, value: str) -> str:
        if value.isupper():
            raise ValueError("please do not shout")
        return value

    @model_validator(mode="after")
    def _fast_is_not_maybe(self) -> Everything:
        if self.mode == "fast" and self.maybe:
            raise ValueError("fast and maybe exclude each other")
        return self


def posted(**values: str) -> ConfigForm:
    return ConfigForm(Everything, {f"a-{name}": value for name, value in values.items()}, prefix="a")


def errors_of(**values: str) -> dict[str, Any]:
    return dict(posted(**values).errors)


def test_what_a_fresh_form_shows_is_accepted_unchanged():
    fresh = ConfigForm(Everything, prefix="a")
    form = posted(**fresh.texts())
    assert form.is_valid(), form.errors
    assert form.config == Everything()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "2e-4", 2e-4),
        ("rate", " 0.5 ", 0.5),
        ("count", "4", 4),
        ("cap", "", None),
        ("cap", "7", 7),
        ("nested_bound", "0.25", 0.25),
        ("flag", "false", False),
        ("maybe", "", None),
        ("maybe", "false", False),
        ("shape", "linear_decay", Shape.LINEAR_DECAY),
        ("mode", "slow", "slow"),
        ("level", "2", 2),
        ("note", "", None),
        ("shares", "0.1, 0.2,1", [0.1, 0.2, 1.0]),
        ("shares", "", []),
        ("table", '{"a": 1}', {"a": 1}),
        ("table", "", {}),
    ],
)
def test_typed_text_becomes_the_settings_value(name, text, value):
    form = posted(**{name: text})
    assert form.is_valid(), form.errors
    assert getattr(form.config, name) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rate", "nan", "finite"),
        ("rate", "0", "greater than 0"),
        ("rate", "", "valid number"),
        ("rate", "fast", "valid number"),
        ("count", "4.5", "valid integer"),
        ("count", "2000", "less than or equal to 1000"),
        ("nested_bound", "-1", "greater than or equal to 0"),
        ("shape", "round", "'flat' or 'linear_decay'"),
        ("level", "3", "1 or 2"),
        ("word", "LOUD", "Please do not shout"),
        ("note", "far too long", "at most 5"),
        ("shares", "0.5, half", "Value 2:"),
        ("table", "{", "not JSON"),
        ("table", '{"a": "x"}', "Value a:"),
    ],
)
def test_a_mistake_is_said_at_the_field_it_was_made_in(name, text, said):
    class Finite(Everything, allow_inf_nan=False): ...  # type: ignore[call-arg]

    form = ConfigForm(Finite, {f"a-{name}": text}, prefix="a")
    assert not form.is_valid()
    assert list(form.errors) == [name]
    assert said in " ".join(form.errors[name])


def test_a_rule_between_fields_is_said_on_top():
    assert "fast and maybe exclude each other" in str(posted(maybe="true").non_field_errors()).lower()


def test_two_wrong_fields_are_both_named_and_nothing_typed_is_lost():
    form = posted(rate="-1", count="0", word="kept")
    assert set(form.errors) == {"rate", "count"}
    assert form.texts()["rate"] == "-1"
    assert form.texts()["word"] == "kept"


def test_bounds_unit_and_sentence_reach_the_page():
    form = ConfigForm(Everything, prefix="a")
    count, rate = form["count"], form["rate"]
    assert 'min="1"' in str(count) and 'max="1000"' in str(count) and 'step="2"' in str(count)
    assert 'step="any"' in str(rate)
    assert (count.field.unit, count.field.bounds) == ("rows", "1 to 1,000")
    assert rate.field.bounds == "above 0, at most 1"
    assert rate.help_text == "Peak step size."


def test_a_unit_that_the_label_ends_with_is_not_said_again():
    form = ConfigForm(BaseAlgorithmConfig, prefix="a")
    assert [(form[name].label, form[name].field.unit) for name in ("num_epochs", "max_steps")] == [
        ("Epochs", ""),
        ("Max steps", ""),
    ]


def test_the_settings_that_matter_are_open_and_the_rest_is_advanced():
    form = ConfigForm(BaseAlgorithmConfig, prefix="a")
    open_names = [bound.name for bound in form.essentials()]
    assert "learning_rate" in open_names and len(open_names) <= 8
    assert "adam_eps" in [bound.name for bound in form.advanced()]


def test_a_recipes_own_setting_without_our_metadata_is_open():
    class FocalConfig(BaseAlgorithmConfig):
        gamma: float = 2.0

    assert "gamma" in [bound.name for bound in ConfigForm(FocalConfig, prefix="a").essentials()]


def test_starting_values_win_over_defaults_and_ignored_fields_are_marked():
    form = ConfigForm(Everything, prefix="a", initial={"rate": 0.003, "shape": "linear_decay"}, ignored={"cap"})
    assert form.texts()["rate"] == "0.003"
    assert '<option value="linear_decay" selected>' in str(form["shape"])
    assert form["cap"].field.is_ignored and not form["rate"].field.is_ignored


def test_hostile_text_is_escaped_where_it_is_shown_again():
    assert "<script>" not in str(posted(word='"><script>alert(1)</script>')["word"])


def test_a_text_that_may_be_long_has_lines_and_line_ends_of_browsers_are_ours():
    class Templated(BaseModel):
        short: str = knob("a", "A word.", max_length=100)
        template: str = knob("a\nb", "Some lines.", max_length=100_000)

    fresh = ConfigForm(Templated, prefix="a")
    assert "<textarea" in str(fresh["template"]) and "a\nb</textarea>" in str(fresh["template"])
    assert "<textarea" not in str(fresh["short"])
    form = ConfigForm(Templated, {"a-short": "b", "a-template": "c\r\n\r\nd"}, prefix="a")
    assert form.is_valid() and form.params() == {"short": "b", "template": "c\n\nd"}
    emptied = ConfigForm(Templated, {"a-short": "b", "a-template": ""}, prefix="a")
    assert emptied.is_valid() and emptied.params()["template"] == ""
