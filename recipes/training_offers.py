"""What training step by step would cost by the hour on a machine of one's own: asked before anybody agrees to pay, and nothing is
made by it. As `serving_offers`, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recipes.registry import backends
from recipes.serving_offers import asked_apart, config_for_an_answer, in_a_sentence


def cost_of(backend: str, params: Mapping[str, Any], *, key: str, allowed: Mapping[str, bool]) -> str:
    """A sentence. allowed: kinds of addresses, as `may_be_asked` takes them. Raises BackendError."""
    return asked_apart("recipes.training_offers:answer", backend, dict(params), key, dict(allowed))


def answer(backend: str, params: dict[str, Any], key: str, allowed: dict[str, bool]) -> tuple[bool, str]:
    """In the process of its own."""

    def ask() -> str:
        config = config_for_an_answer(backend, params, allowed)
        return str(backends.get(backend).hourly_cost(config, secrets={"backend_api_key": key}))

    return in_a_sentence(ask, key=key)
