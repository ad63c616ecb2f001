"""Asks the service, for the form, what a deployment of the chosen weights would cost."""

from __future__ import annotations

from django.db import connection

from evsys_web.accounts.connection_tests import turn
from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import allowed_kinds
from evsys_web.encryption import unsaid
from evsys_web.evals.forms import EvalForm
from evsys_web.runs.backends import backend_secrets, check_backend
from recipes.serving_offers import cost_of


def offer_for(form: EvalForm, user: User) -> str:
    """A sentence. The key is that of the run whose weights they are, or of the benchmark's project. Raises BackendError,
    ConfigError, TooOften, PermissionDenied."""
    project, backend, model_name, checkpoint = form.asked()
    require_editor(user, project)
    check_backend(project, backend)
    key = backend_secrets(project, backend).get("backend_api_key", "")
    with turn(user):
        if not connection.in_atomic_block:
            connection.close()
        found = cost_of(
            backend.kind,
            backend.params,
            model=model_name,
            checkpoint=checkpoint,
            shape=form.settings["serving"].params().get("shape"),
            key=key,
            allowed=allowed_kinds(),
        )
    return unsaid(found)
