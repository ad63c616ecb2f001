"""What a person says about attempts to bring in: the file, and how the eval run is to be shown."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from evsys_web.accounts.models import Project, User
from evsys_web.evals.models import Benchmark


class BenchmarkChoice(forms.ModelChoiceField[Benchmark]):
    def label_from_instance(self, benchmark: Benchmark) -> str:
        return f"{benchmark.name} ({benchmark.project})"


class ImportForm(forms.Form):
    file = forms.FileField(
        label="File",
        help_text="Attempts as JSONL, lm-evaluation-harness samples, an rLLM run as zip, or an Inspect AI log.",
        max_length=255,
        error_messages={"empty": "This file is empty.", "max_length": "The file's name is longer than 255 characters."},
        widget=forms.FileInput(attrs={"accept": ".jsonl,.ndjson,.zip,.eval,.json"}),
    )
    name = forms.CharField(required=False, max_length=200, help_text="Empty: the file's name.")
    model_label = forms.CharField(
        required=False, max_length=400, label="Model", help_text="What was sampled from. Empty: what the file says."
    )
    only_model = forms.CharField(
        required=False, max_length=400, label="Only attempts by", help_text="For a file with several models, the one to import."
    )
    trajectory = forms.CharField(
        required=False, max_length=200, help_text="Of an rLLM run whose episodes have several, the one to take. Empty: the first."
    )
    benchmark = BenchmarkChoice(
        Benchmark.objects.none(),
        required=False,
        empty_label="None",
        help_text="To list it under. Evals are compared by the ids of their tasks, with or without one.",
    )
    project = forms.ModelChoiceField(Project.objects.none(), required=False)
    leave_out_bad = forms.BooleanField(
        required=False, label="Leave out bad attempts", help_text="Import the good ones although others are refused."
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        projects, benchmarks = self.fields["project"], self.fields["benchmark"]
        assert isinstance(projects, forms.ModelChoiceField) and isinstance(benchmarks, forms.ModelChoiceField)
        projects.queryset = Project.objects.editable_by(user).distinct().order_by("pk")
        projects.empty_label = None
        projects.initial = user.default_project().pk
        if len(projects.queryset[:2]) < 2:
            projects.widget = forms.HiddenInput()
        benchmarks.queryset = Benchmark.objects.editable_by(user).select_related("project").distinct().order_by("name", "pk")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "project" in self.errors and self.fields["project"].widget.is_hidden:
            raise ValidationError(list(self.errors.pop("project")))
        benchmark = cleaned.get("benchmark")
        if not cleaned.get("project"):
            cleaned["project"] = benchmark.project if benchmark else self.user.default_project()
        if benchmark is not None and benchmark.project_id != cleaned["project"].pk:
            self.add_error("benchmark", f"This benchmark belongs to the project {benchmark.project}.")
        return cleaned
