"""Asks the service, for the form, what an hour of the machine would cost that a run is to train on."""

from __future__ import annotations

from django.db import connection

from evsys_web.accounts.connection_tests import turn
from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import allowed_kinds
from evsys_web.config_forms import mistakes_in
from evsys_web.encryption import unsaid
from evsys_web.runs.backends import backend_secrets, check_backend
from evsys_web.runs.forms import RunForm
from recipes.config import BackendChoice
from recipes.errors import ConfigError
from recipes.registry import backends
from recipes.training_offers import cost_of


def offer_for(form: RunForm, user: User) -> str:
    """A sentence. The key is that of the dataset's project. Raises BackendError, ConfigError, TooOften, PermissionDenied."""
    settings, kind = form.settings.get("backend"), form.text("backend")
    if settings is None or not hasattr(backends.get(kind), "hourly_cost"):
        raise ConfigError("What is chosen trains on no machine that is billed by the hour.")
    form.choices.full_clean()
    version = form.choices.cleaned_data.get("dataset_version")
    if version is None:
        raise ConfigError("Choose a dataset first: the key of its project is the one that asks.")
    if not settings.is_valid():
        raise ConfigError(" ".join(mistakes_in(settings)))
    project, backend = version.dataset.project, BackendChoice(kind=kind, params=settings.params())
    require_editor(user, project)
    check_backend(project, backend)
    key = backend_secrets(project, backend).get("backend_api_key", "")
    with turn(user):
        if not connection.in_atomic_block:
            connection.close()
        found = cost_of(kind, backend.params, key=key, allowed=allowed_kinds())
    return unsaid(found)
