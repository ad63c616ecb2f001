"""What a person types to push a checkpoint."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms

from evsys_web.accounts.models import BackendCredential
from evsys_web.checkpoints.models import Weights
from evsys_web.runs.models import Checkpoint


class PushForm(forms.Form):
    """Where on the hub, and with which token."""

    repository = forms.CharField(max_length=200, help_text="owner/name; made when it is not there.")
    credential = forms.ModelChoiceField(
        queryset=BackendCredential.objects.none(),
        empty_label=None,
        label="Token",
        help_text="A stored one that may write.",
    )
    weights = forms.ChoiceField(choices=Weights.choices)
    is_private = forms.BooleanField(required=False, initial=True, label="Private", help_text="Of a repository that is made.")
    submission_key = forms.CharField(max_length=200, widget=forms.HiddenInput, initial=lambda: uuid.uuid4().hex)

    def __init__(self, checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        credentials = self.fields["credential"]
        assert isinstance(credentials, forms.ModelChoiceField)
        credentials.queryset = BackendCredential.objects.filter(project=checkpoint.run.project).order_by("name")
