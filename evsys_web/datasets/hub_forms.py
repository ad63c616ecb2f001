"""What a person types to publish to the Hugging Face hub, or to import from there."""

from __future__ import annotations

from typing import Any

from django import forms

from evsys_web.accounts.models import BackendCredential, Project, User
from evsys_web.datasets.downloads import ExportFormat
from evsys_web.datasets.models import DatasetVersion, valid_name

KEY_HELP = "A key stored under Credentials. It is read by the worker alone."


class PublishForm(forms.Form):
    repo_id = forms.CharField(
        label="Dataset on the hub",
        max_length=200,
        help_text="owner/name. It is made if there is none.",
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "spellcheck": "false", "autocapitalize": "off"}),
    )
    credential = forms.ModelChoiceField(
        BackendCredential.objects.none(), label="Key", empty_label="Choose a key", help_text=f"{KEY_HELP} It needs to write."
    )
    format = forms.ChoiceField(
        choices=[(ExportFormat.PARQUET, "Parquet"), (ExportFormat.JSONL, "JSONL")], help_text="Parquet shows on the hub's pages."
    )
    private = forms.BooleanField(
        required=False, initial=True, label="Private", help_text="Only you, and your organisation, can see it on the hub."
    )
    use_required_attribute = False

    def __init__(self, *args: Any, version: DatasetVersion, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keys = BackendCredential.objects.filter(project=version.dataset.project_id).order_by("name")
        self.fields["credential"].queryset = keys  # type: ignore[attr-defined]


class HubImportForm(forms.Form):
    repo_id = forms.CharField(
        label="Dataset on the hub",
        max_length=200,
        help_text="As in its address, for example openai/gsm8k.",
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "spellcheck": "false", "autocapitalize": "off"}),
    )
    config = forms.CharField(required=False, max_length=200, help_text="Where it has several. Empty: its default one.")
    split = forms.CharField(required=False, max_length=64, help_text="Empty: all of them, as splits of one version.")
    revision = forms.CharField(required=False, max_length=200, help_text="A branch, tag or commit. Empty: main as it is now.")
    name = forms.CharField(
        required=False, max_length=100, label="Called here", validators=[valid_name], help_text="Empty: as on the hub."
    )
    credential = forms.ModelChoiceField(
        BackendCredential.objects.none(),
        required=False,
        label="Key",
        empty_label="none",
        help_text=f"For private data. {KEY_HELP}",
    )
    project = forms.ModelChoiceField(Project.objects.none(), required=False)
    convert = forms.BooleanField(
        required=False, label="Convert known foreign shapes", help_text="ShareGPT, Alpaca and others, without asking again."
    )
    use_required_attribute = False

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        projects = Project.objects.editable_by(user).distinct().order_by("pk")
        field = self.fields["project"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset, field.empty_label, field.initial = projects, None, user.default_project().pk
        if len(projects[:2]) < 2:
            field.widget = forms.HiddenInput()
        keys = BackendCredential.objects.visible_to(user).distinct().order_by("name")
        self.fields["credential"].queryset = keys  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        found["project"] = found.get("project") or self.user.default_project()
        key = found.get("credential")
        if key is not None and key.project_id != found["project"].pk:
            self.add_error("credential", "This key belongs to another project.")
        return found
