"""What weights would be served on, and at what price: asked before anybody agrees to pay, and nothing is made by it.

As `probes` tries keys: in a process of its own that is gone afterwards, which takes no longer than it may and connects to no
address that may not be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from recipes.errors import BackendError, ErrorKind, RecipeError
from recipes.eval_config import Serving
from recipes.isolation import Isolated, IsolationTimeout
from recipes.outbound import guard_this_process, may_be_asked
from recipes.registry import backends
from recipes.serving import refuse_dear
from recipes.serving_bounds import bound_of

SECONDS = 60.0
"""For reading the SDK on a busy machine, and for the service's answers."""
ANSWER_SECONDS = 10.0
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_")


def cost_of(
    backend: str,
    params: Mapping[str, Any],
    *,
    model: str,
    checkpoint: str | None,
    serving: Serving,
    num_evals: int,
    key: str,
    allowed: Mapping[str, bool],
) -> str:
    """A few sentences: what the model would be served on, and the most that so many evals can cost. allowed: kinds of addresses,
    as `may_be_asked` takes them. Raises BackendError."""
    chosen = (model, checkpoint, serving.model_dump(), num_evals)
    return asked_apart("recipes.serving_offers:answer", backend, dict(params), *chosen, key, dict(allowed))


def answer(
    backend: str,
    params: dict[str, Any],
    model: str,
    checkpoint: str | None,
    serving: dict[str, Any],
    num_evals: int,
    key: str,
    allowed: dict[str, bool],
) -> tuple[bool, str]:
    """In the process of its own."""

    def ask() -> str:
        config = config_for_an_answer(backend, params, allowed)
        return told(backend, config, model=model, checkpoint=checkpoint, serving=serving, num_evals=num_evals, key=key)

    return in_a_sentence(ask, key=key)


def told(
    backend: str,
    config: BaseModel,
    *,
    model: str,
    checkpoint: str | None,
    serving: Mapping[str, Any],
    num_evals: int,
    key: str,
) -> str:
    """What is offered, how to have it for all of several evals, and the most that these can cost. Raises ConfigError,
    BackendError."""
    backend_class: Any = backends.get(backend)
    wanted = Serving.model_validate(serving)
    deployments = backend_class.deployments(config, secrets={"backend_api_key": key})
    try:
        served = backend_class.served_name(model, checkpoint)
        offer = deployments.offer(served, wanted.shape)
    finally:
        deployments.close()
    refuse_dear(offer, wanted, backend=backend, model=served, place=deployments.place)
    bound = bound_of(wanted, num_evals=num_evals, replica_dollars=offer.dollars_per_hour(backend))
    sentences = [f"{deployments.place} would serve it on {offer.cost(backend)}.", bound.sentence()]
    if num_evals > 1 and wanted.shape is None:
        sentences.insert(
            1, f"What is tuned may be matched to another shape; to have every eval served on this one, name {offer.shape}."
        )
    return " ".join(sentences)


def asked_apart(function: str, *arguments: Any) -> str:
    """What `function` (module:name), which gives as `in_a_sentence` does, finds in a process of its own. Raises BackendError."""
    asking = Isolated(function, timeout_seconds=SECONDS, variables=VARIABLES)
    try:
        is_answered, sentence = asking(*arguments)
    except IsolationTimeout:
        raise BackendError(f"There was no answer within {SECONDS:g} seconds.", permanent=False, kind=ErrorKind.TIMEOUT) from None
    except ValueError as error:
        raise BackendError(f"It could not be asked: {str(error)[:300]}", permanent=False) from None
    finally:
        asking.close()
    if not is_answered:
        raise BackendError(sentence, permanent=False)
    return str(sentence)


def config_for_an_answer(backend: str, params: dict[str, Any], allowed: dict[str, bool]) -> Any:
    """The backend's settings, for one quick answer, in a process that from here on connects to no other kind of address."""
    if params.get("base_url"):
        guard_this_process(lambda text: may_be_asked(text, **allowed))
    return backends.get(backend).Config.model_validate(params | {"timeout_seconds": ANSWER_SECONDS})


def in_a_sentence(ask: Callable[[], str], *, key: str) -> tuple[bool, str]:
    """Whether there is an answer, and it, or why there is none; never with the key."""
    try:
        sentence, is_answered = ask(), True
    except RecipeError as error:
        sentence, is_answered = str(error), False
    return is_answered, sentence.replace(key, "[the key]") if key else sentence
