"""What a person types about where to be told."""

from __future__ import annotations

from typing import Any

from django import forms

from evsys_web.accounts.models import Project, User
from evsys_web.notifications.models import CHOOSABLE, Kind


class EventsForm(forms.Form):
    events = forms.MultipleChoiceField(
        choices=[(event.value, event.label) for event in CHOOSABLE],
        initial=[event.value for event in CHOOSABLE],
        widget=forms.CheckboxSelectMultiple,
        label="Events",
        error_messages={"required": "Choose at least one event."},
    )


class ChannelForm(EventsForm):
    """A URL, or an address; which of both is the form's own kind."""

    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None)
    target = forms.CharField(max_length=1000)
    field_order = ("project", "target", "events")

    def __init__(self, data: Any = None, *, user: User, kind: Kind) -> None:
        super().__init__(data, prefix=kind.value)
        projects, target = self.fields["project"], self.fields["target"]
        assert isinstance(projects, forms.ModelChoiceField)
        projects.queryset = Project.objects.editable_by(user).order_by("pk")
        projects.initial = user.default_project().pk
        projects.help_text = "Whose runs, evals and cycles."
        if kind is Kind.WEBHOOK:
            target.label, target.help_text = "URL", "Gets a signed JSON message by POST."
            target.widget = forms.URLInput(attrs={"placeholder": "https://example.org/hooks/evsys", "autocomplete": "off"})
        else:
            target.label, target.help_text = "Address", "Gets a short plain message."
            target.widget = forms.EmailInput(attrs={"placeholder": "ada@example.org"})
