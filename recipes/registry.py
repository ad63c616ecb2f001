"""Kinds by name: algorithms, backends, verifiers, callbacks.

Built-ins are dotted paths, imported on first use, so that listing kinds imports no vendor package. An installed package adds
its own through the entry-point groups `recipes.algorithms`, `recipes.backends`, `recipes.verifiers`, `recipes.callbacks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from recipes.errors import ConfigError

T = TypeVar("T")


class Registry:
    """One kind of thing by name. `load_failures` maps the name of an installed entry point to why it could not be imported."""

    def __init__(self, noun: str, *, builtins: dict[str, str]) -> None:
        self.noun = noun
        self.group = f"recipes.{noun}s"
        self.load_failures: dict[str, str] = {}
        self._paths = dict(builtins)
        self._items: dict[str, Any] = {}
        self._entry_points_read = False

    def register(self, kind: str) -> Callable[[T], T]:
        """Decorator. Registering the same object again is fine; another one under a taken name is a ConfigError naming both."""

        def add(item: T) -> T:
            taken_by = self._items.get(kind)
            if taken_by is not None and taken_by is not item and _dotted(taken_by) != _dotted(item):
                raise ConfigError(f"{self.noun} {kind!r} is already {_dotted(taken_by)}; {_dotted(item)} needs another name.")
            if kind in self._paths and self._paths[kind] != _dotted(item):
                raise ConfigError(f"{self.noun} {kind!r} is already {self._paths[kind]}; {_dotted(item)} needs another name.")
            self._items[kind] = item
            return item

        return add

    def get(self, kind: str) -> Any:
        """The registered object. Raises ConfigError that lists the kinds there are."""
        if kind in self._paths and kind not in self._items:
            module, _, attribute = self._paths[kind].partition(":")
            self._items[kind] = getattr(import_module(module), attribute)
        if kind not in self._items:
            self._read_entry_points()
        if kind not in self._items:
            why = f" ({self.load_failures[kind]})" if kind in self.load_failures else ""
            raise ConfigError(f"There is no {self.noun} {kind!r}{why}. Choose one of: {', '.join(self.kinds())}.", path=("kind",))
        return self._items[kind]

    def kinds(self) -> list[str]:
        self._read_entry_points()
        return sorted({*self._paths, *self._items})

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for entry_point in entry_points(group=self.group):
            try:
                self.register(entry_point.name)(entry_point.load())
            except Exception as error:  # noqa: BLE001 - somebody else's package must not take this program down
                self.load_failures[entry_point.name] = f"{type(error).__name__}: {error}"
                warnings.warn(f"{self.noun} {entry_point.name!r} ({entry_point.value}) cannot be used: {error}", stacklevel=2)


def load_failures(*registries: Registry) -> list[str]:
    """`algorithm NAME: why`, for everything that an installed package offers and that cannot be used."""
    found = []
    for registry in registries:
        registry.kinds()  # reads the entry points
        found += [f"{registry.noun} {name}: {why}" for name, why in registry.load_failures.items()]
    return found


def _dotted(item: Any) -> str:
    return f"{getattr(item, '__module__', '?')}:{getattr(item, '__qualname__', item)}"


algorithms = Registry(
    "algorithm",
    builtins={
        "sft": "recipes.algorithms.sft:SFT",
        "rl": "recipes.algorithms.rl:RL",
        "dpo": "recipes.algorithms.dpo:DPO",
        "sdft": "recipes.algorithms.sdft:SDFT",
        "local_sft": "recipes.algorithms.trl.sft:LocalSFT",
        "local_dpo": "recipes.algorithms.trl.dpo:LocalDPO",
        "local_rl": "recipes.algorithms.trl.rl:LocalRL",
        "fireworks_sft": "recipes.algorithms.fireworks_jobs:FireworksSFT",
        "fireworks_dpo": "recipes.algorithms.fireworks_jobs:FireworksDPO",
        "fireworks_rft": "recipes.algorithms.fireworks_rft:FireworksRFT",
        "mock_sft": "recipes.algorithms.mock:MockSFT",
    },
)
backends = Registry(
    "backend",
    builtins={
        "local": "recipes.backends.local:LocalBackend",
        "mock": "recipes.backends.mock:MockBackend",
        "tinker": "recipes.backends.tinker:TinkerBackend",
        "fireworks": "recipes.backends.fireworks:FireworksBackend",
    },
)
verifiers = Registry(
    "verifier",
    builtins={
        "exact_match": "recipes.verifiers:ExactMatch",
        "contains": "recipes.verifiers:Contains",
        "regex_match": "recipes.verifiers:RegexMatch",
        "numeric": "recipes.verifiers:Numeric",
        "math": "recipes.verifiers:Math",
        "json_schema": "recipes.json_verifiers:JsonSchema",
        "tool_calls_match": "recipes.json_verifiers:ToolCallsMatch",
        "format_only": "recipes.verifiers:FormatOnly",
        "llm_judge": "recipes.judge:LLMJudge",
    },
)
callbacks = Registry(
    "callback",
    builtins={
        "early_stopping": "recipes.callbacks:EarlyStopping",
    },
)


def backends_for(algorithm: str) -> list[str]:
    """Kinds of backends that the algorithm can train on: those it names in `runs_on`, else all, or all that can be sampled from
    while they train if it does so. An installed class need not know the words. Raises ConfigError for an algorithm that there is
    not."""
    registered = algorithms.get(algorithm)
    if (named := getattr(registered, "runs_on", None)) is not None:
        return [kind for kind in backends.kinds() if kind in named]
    must_sample = learns_from_samples(registered)
    return [kind for kind in backends.kinds() if not must_sample or samples_in_training(kind)]


def learns_from_samples(algorithm: Any) -> bool:
    """Whether a class of algorithms asks what it trains for samples while it trains. An installed one says so in the older word,
    too."""
    return any(getattr(algorithm, word, False) for word in ("gives_rollouts", "needs_sampler"))


def uses_backend(algorithm: Any) -> bool:
    """Whether the chosen backend is where it trains. An installed class need not know the words."""
    return bool(getattr(algorithm, "needs_backend", True)) and getattr(algorithm, "own_backend", None) is None


def samples_in_training(backend: str) -> bool:
    """Whether what trains there can sample from its own weights. Raises ConfigError for a kind that there is not."""
    return bool(getattr(backends.get(backend), "samples_in_training", False)) or backend in sampling_backends()


def sampling_backends() -> list[str]:
    """Those whose weights can be sampled from here, by an eval or a chat."""
    return [kind for kind in backends.kinds() if getattr(backends.get(kind), "samples", True)]


def evaluated_backends() -> list[str]:
    """Those whose models an eval can ask: sampled from here, or served by a deployment that is made for it."""
    return [kind for kind in backends.kinds() if kind in sampling_backends() or serves(kind)]


def serves(backend: str) -> bool:
    """Whether weights of this kind of backend answer from deployments (`recipes.serving`). Raises ConfigError for one that there
    is not."""
    return hasattr(backends.get(backend), "deployments")


def check_samples(backend: str) -> None:
    """Raises ConfigError for a kind of backend that cannot be sampled from here."""
    backends.get(backend)
    if backend not in sampling_backends():
        raise ConfigError(
            f"{backend} is not sampled from here: what it trained answers from a deployment there. An eval can have one made.",
            path=("backend", "kind"),
        )


register_algorithm = algorithms.register
register_backend = backends.register
register_verifier = verifiers.register
register_callback = callbacks.register
