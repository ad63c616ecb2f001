"""What a person types to bring rows in: the upload itself, and how foreign rows are to be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import valid_name
from recipes.conversions import COLUMNS, CONVERSIONS, Reading
from recipes.errors import ConfigError
from recipes.rows import RowFormat

MAX_PASTED_CHARACTERS = 5_000_000


class UploadForm(forms.Form):
    """A file or pasted text, and the dataset it becomes a version of."""

    file = forms.FileField(
        required=False,
        label="File",
        help_text="JSONL, JSON, CSV or Parquet. Nothing is stored before every row has been checked.",
        max_length=255,
        error_messages={"empty": "This file is empty.", "max_length": "The file's name is longer than 255 characters."},
        widget=forms.FileInput(attrs={"accept": ".jsonl,.ndjson,.json,.csv,.tsv,.parquet"}),
    )
    text = forms.CharField(
        required=False,
        label="Or paste rows",
        strip=False,
        max_length=MAX_PASTED_CHARACTERS,
        error_messages={
            "max_length": f"At most {MAX_PASTED_CHARACTERS:,} characters can be pasted. Upload longer text as a file."
        },
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "mono", "maxlength": None}),
    )
    name = forms.CharField(
        required=False,
        max_length=100,
        label="Dataset",
        validators=[valid_name],
        help_text="Empty: the file's name. A name that exists already gets a new version.",
    )
    description = forms.CharField(required=False, max_length=2000, widget=forms.Textarea(attrs={"rows": 2}))
    project = forms.ModelChoiceField(Project.objects.none(), required=False)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        field = self.fields["project"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = Project.objects.editable_by(user).distinct().order_by("pk")
        field.empty_label = None
        field.initial = user.default_project().pk
        if len(field.queryset[:2]) < 2:
            field.widget = forms.HiddenInput()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "project" in self.errors and self.fields["project"].widget.is_hidden:
            raise ValidationError(list(self.errors.pop("project")))
        if "file" in self.errors or "text" in self.errors:
            return cleaned
        if bool(cleaned.get("file")) == bool((cleaned.get("text") or "").strip()):
            raise ValidationError("Choose a file or paste rows: one of the two.")
        if not cleaned.get("file"):
            cleaned["file"] = ContentFile(cleaned["text"].encode("utf-8", "surrogatepass"), name="pasted")
        if not cleaned.get("name") and "name" not in self.errors:
            cleaned["name"] = name_from_file(cleaned["file"].name)
        cleaned["project"] = cleaned.get("project") or self.user.default_project()
        return cleaned


class AdminUploadForm(UploadForm):
    leave_out_bad = forms.BooleanField(
        required=False, label="Leave out bad rows", help_text="Import the good rows although others are refused."
    )


def name_from_file(filename: str) -> str:
    """A dataset name from a file's: train-v2.jsonl → train-v2."""
    name = re.sub(r"[^\w .\-]+", "-", Path(filename).stem).strip(" .-_")[:100]
    return name or "dataset"


GUESSES = {
    "system": ("system", "system_prompt", "context"),
    "prompt": ("prompt", "question", "instruction", "input", "user", "query", "problem", "text"),
    "reply": ("completion", "response", "answer", "output", "reply", "assistant", "target", "solution"),
    "chosen": ("chosen", "preferred", "better", "winner", "accepted"),
    "rejected": ("rejected", "dispreferred", "worse", "loser", "other"),
    "task_id": ("task_id", "id", "uid", "index"),
    "answer": ("answer", "expected", "target", "solution", "output", "label"),
}
LABELS = {"task_id": "Task id", "reply": "Reply"}


class MappingForm(forms.Form):
    """Which column of the file holds which part of a row of one format."""

    keep_rest = forms.BooleanField(required=False, initial=True, label="Keep the other columns as metadata")

    def __init__(self, data: Any = None, *, format: RowFormat, columns: list[str]) -> None:
        super().__init__(data, prefix=format)
        self.format = format
        taken: set[str] = set()
        parts: dict[str, forms.Field] = {}
        for part, needed in COLUMNS[format].items():
            guess = next((name for name in GUESSES[part] if name in columns and name not in taken), "")
            taken.add(guess)
            choices = [("", "choose a column" if needed else "none"), *((name, name) for name in columns)]
            label = LABELS.get(part, part.capitalize())
            parts[part] = forms.ChoiceField(choices=choices, required=needed, initial=guess, label=label)
        self.fields = {**parts, **self.fields}

    @property
    def title(self) -> str:
        return {
            RowFormat.MESSAGES: "Chats: a prompt and the reply to learn",
            RowFormat.PREFERENCE: "Preferences: a prompt, a better and a worse reply",
            RowFormat.TASK: "Tasks: a prompt and the answer to check against",
        }[self.format]

    def reading(self) -> Reading:
        """The Reading of a valid form."""
        chosen = {part: self.cleaned_data[part] for part in COLUMNS[self.format] if self.cleaned_data.get(part)}
        return Reading(self.format, columns=chosen, keep_rest=self.cleaned_data["keep_rest"])


CHOICES = [
    *((f"native:{format.value}", f"{format.value} rows, as they are") for format in COLUMNS),
    *((f"conversion:{name}", conversion.title) for name, conversion in CONVERSIONS.items()),
]


def chosen_reading(choice: str) -> Reading:
    """The Reading that a value of CHOICES names. Raises ConfigError."""
    kind, _, name = choice.partition(":")
    if kind == "conversion" and name in CONVERSIONS:
        return Reading(CONVERSIONS[name].format, name)
    if kind == "native" and name in COLUMNS:
        return Reading(RowFormat(name))
    raise ConfigError("Choose how the rows are to be read.", path=("reading",))
