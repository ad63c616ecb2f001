"""What a person types about themselves and their tokens."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest
from django.utils.timezone import now

from evsys_web.accounts.models import ApiToken, CredentialKind, Project, Scope, User

EXPIRIES = {"7": "in 7 days", "30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]
    """Another address takes the password: whoever reads its mail can set a new one."""

    password = forms.CharField(
        strip=False,
        max_length=4096,
        required=False,
        label="Your password",
        help_text="Needed only to change the e-mail address: links to a new password go there.",
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    class Meta:
        model = User
        fields: ClassVar[list[str]] = ["first_name", "last_name", "email"]

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        if not self.instance.has_usable_password():  # then no link is sent either
            del self.fields["password"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if "email" in self.changed_data and not is_password_of(self.request, self.instance.get_username(), password):
            raise forms.ValidationError("Another e-mail address takes your password. This is not it.")
        return password


class OwnPasswordForm(PasswordChangeForm):
    """Guesses of the former password lock as they do at signing in."""

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_old_password(self) -> str:
        password: str = self.cleaned_data["old_password"]
        if not is_password_of(self.request, self.user.get_username(), password):
            raise forms.ValidationError(self.error_messages["password_incorrect"], code="password_incorrect")
        return password


def is_password_of(request: HttpRequest, username: str, password: str) -> bool:
    """A wrong one counts as a failed sign-in, none at all does not."""
    return bool(password) and authenticate(request, username=username, password=password) is not None


class TokenForm(forms.Form):
    """A new token of `user`. A name can be in use once, so a page sent twice makes one token."""

    name = forms.CharField(max_length=100, help_text="Where it will be used, such as “laptop” or “nightly eval”.")
    scope = forms.ChoiceField(
        choices=Scope.choices, initial=Scope.READ, help_text="Read is enough to fetch metrics; starting runs needs write."
    )
    expiry = forms.ChoiceField(choices=list(EXPIRIES.items()), initial="90", required=False, label="Expires")

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if ApiToken.objects.usable().filter(user=self.user, name=name).exists():
            raise forms.ValidationError("You already have a token with this name. Revoke it first, or choose another name.")
        return name

    def expires_at(self) -> datetime | None:
        days = self.cleaned_data["expiry"]
        return now() + timedelta(days=int(days)) if days else None


WHERE_TESTED = (
    "Where the key is tested, such as https://api.example.org/v1. Empty is the vendor’s own; an OpenAI-compatible server "
    "needs one."
)


class ConnectionForm(forms.Form):
    """Where to try a stored key."""

    kind = forms.ChoiceField(choices=CredentialKind.choices, label="For")
    base_url = forms.CharField(max_length=1000, required=False, label="Address", help_text=WHERE_TESTED)


class CredentialForm(forms.Form):
    """A key for somebody else's server. It goes in and never comes out, not even into a form that is shown again."""

    project = forms.ModelChoiceField(
        queryset=Project.objects.none(), empty_label=None, help_text="Everyone in it may use the key, nobody may read it."
    )
    name = forms.CharField(max_length=200, help_text="What configs call it. A name that is taken gets the new key.")
    kind = forms.ChoiceField(choices=CredentialKind.choices, label="For")
    base_url = forms.CharField(max_length=1000, required=False, label="Address", help_text=WHERE_TESTED)
    secret = forms.CharField(
        max_length=10_000, label="Key", widget=forms.PasswordInput(attrs={"autocomplete": "off"}), help_text="Stored encrypted."
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        projects = self.fields["project"]
        assert isinstance(projects, forms.ModelChoiceField)
        projects.queryset = Project.objects.editable_by(user).order_by("pk")
        projects.initial = user.default_project().pk
