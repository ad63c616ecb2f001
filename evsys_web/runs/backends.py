"""What a backend needs that stands in no config: an address that may be called from here, and the key that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evsys_web.accounts.actions import require_credential, reveal_credential
from evsys_web.accounts.models import Project
from evsys_web.addresses import refuse_private, refuse_private_host
from recipes.backends.local.models import resolve
from recipes.config import BackendChoice
from recipes.registry import backends

ADDRESS, CREDENTIAL = ("backend", "params", "base_url"), ("backend", "params", "credential")


def check_backend(project: Project, backend: BackendChoice) -> None:
    """Before a run is queued. Raises ConfigError for an address that may not be called or a credential that is not there."""
    if isinstance(url := backend.params.get("base_url"), str):
        refuse_private(url, path=ADDRESS)
    require_credential(project, backend.params.get("credential"), path=CREDENTIAL)


def check_model_name(backend: str, name: str) -> None:
    """Raises ConfigError for a name that cannot mean a model on this kind of backend; asks nobody."""
    check = getattr(backends.get(backend), "check_model", None)  # most take a folder, or a hub id
    (check or resolve)(name)


def without_consents(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config as JSON, but for what was agreed to be paid: whoever repeats a run agrees anew."""
    backend = config.get("backend")
    if not isinstance(backend, dict) or backend.get("kind") not in backends.kinds() or not backend.get("params"):
        return dict(config)
    # An installed backend need not know the word.
    consents: frozenset[str] = getattr(backends.get(backend["kind"]), "consents", frozenset())
    params = {name: value for name, value in backend["params"].items() if name not in consents}
    return {**config, "backend": {**backend, "params": params}}


def backend_secrets(project: Project, backend: BackendChoice) -> dict[str, str]:
    """In the worker, right before the backend is opened: the key by the name under which `recipes` takes it. The address is
    looked up once more, since a name may lead elsewhere by now. Raises ConfigError."""
    if isinstance(url := backend.params.get("base_url"), str):
        refuse_private_host(url, path=ADDRESS)
    name = backend.params.get("credential")
    return {"backend_api_key": reveal_credential(project=project, name=name)} if name else {}
