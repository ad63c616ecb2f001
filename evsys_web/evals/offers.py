"""Asks the service, for the form, what a deployment of the chosen weights would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import connection

from evsys_web.accounts.connection_tests import turn
from evsys_web.accounts.models import User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import allowed_kinds
from evsys_web.encryption import unsaid
from evsys_web.evals.forms import Asked
from evsys_web.runs.backends import backend_secrets, check_backend
from recipes.eval_config import Serving
from recipes.serving_offers import cost_of


def offer_for(asked: Asked, user: User, *, serving: Mapping[str, Any], num_evals: int = 1) -> str:
    """A few sentences. The key is that of the run whose weights they are, or of the benchmark's project. serving: settings as a
    form has validated them. Raises BackendError, ConfigError, TooOften, PermissionDenied."""
    project, backend, model_name, checkpoint = asked
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
            serving=Serving.model_validate(dict(serving)),
            num_evals=num_evals,
            key=key,
            allowed=allowed_kinds(),
        )
    return unsaid(found)
