"""What a backend needs that stands in no config: an address that may be called from here, and the key that the config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """A config as JSON, but for what was agreed to be paid for training: whoever repeats it agrees anew."""
    return _with_params(config, unagreed)


def with_consents(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same as if all were agreed to, to see what else is wrong with it."""
    return _with_params(config, lambda kind, params: {**params, **dict.fromkeys(sorted(consents_of(kind)), True)})


def unagreed(kind: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a backend, but for those that agree to a bill: a form that is filled in leaves their boxes to be ticked."""
    consents = consents_of(kind)
    return {name: value for name, value in params.items() if name not in consents}


def consents_of(kind: str) -> frozenset[str]:
    """Settings of this kind of backend that agree to a bill; an installed one need not know the word, and one that is not here
    has none."""
    found: frozenset[str] = getattr(backends.get(kind), "consents", frozenset()) if kind in backends.kinds() else frozenset()
    return found


def _with_params(config: Mapping[str, Any], change: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """As it is where it has no backend with settings: what is wrong with that is said where it is checked."""
    backend = config.get("backend")
    if not isinstance(backend, dict) or not isinstance(params := backend.get("params"), dict):
        return dict(config)
    return {**config, "backend": {**backend, "params": change(backend.get("kind", ""), params)}}


def backend_secrets(project: Project, backend: BackendChoice) -> dict[str, str]:
    """In the worker, right before the backend is opened: the key by the name under which `recipes` takes it. The address is
    looked up once more, since a name may lead elsewhere by now. Raises ConfigError."""
    if isinstance(url := backend.params.get("base_url"), str):
        refuse_private_host(url, path=ADDRESS)
    name = backend.params.get("credential")
    return {"backend_api_key": reveal_credential(project=project, name=name)} if name else {}
