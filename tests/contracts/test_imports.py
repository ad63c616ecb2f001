"""The arrows between the rooms, read from the source; and what a clean process must not have loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
# lowest first: an app never imports one to its right
APPS = ("accounts", "datasets", "runs", "evals", "checkpoints", "curation", "cycles", "sweeps", "queue", "notifications", "home")
VENDORS = {
    "torch",
    "tinker",
    "trl",
    "transformers",
    "peft",
    "accelerate",
    "fireworks",
    "datasets",
    "openai",
    "math_verify",
    "sympy",
}
HEAVY = {"torch", "tinker", "trl", "transformers", "peft", "fireworks", "openai", "math_verify", "sympy"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imported(path: Path, *, top_level_only: bool = False) -> tuple[str, ...]:
    return tuple(names_in(path, top_level_only=top_level_only))


def names_in(path: Path, *, top_level_only: bool) -> Iterator[str]:
    """Dotted names that a module imports; `from a import b` yields a.b, so that a submodule is seen as one."""
    tree = ast.parse(path.read_text(), filename=str(path))
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in at_import_time(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs when the module is imported: not the insides of functions, nor what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import_time(child)


def starts_with(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def breaches(paths: list[Path], *forbidden: str, top_level_only: bool = False) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(path, top_level_only=top_level_only)
        if starts_with(name, *forbidden)
    ]


def test_recipes_know_neither_django_nor_the_dashboard() -> None:
    assert breaches(modules("recipes"), "django", "ninja", "celery", "evsys_web") == []


def test_only_backends_and_whole_run_algorithms_import_a_vendor_when_they_are_imported() -> None:
    doors = {"recipes.backends", "recipes.algorithms.trl", "recipes.algorithms.fireworks_jobs", "recipes.tinker_server"}
    scripts = {"recipes.starter.pretrain"}  # makes the bundled model; run by hand, imported by nobody
    others = [path for path in modules("recipes") if not starts_with(dotted(path), *doors, *scripts)]
    assert breaches(others, *VENDORS, top_level_only=True) == []
    assert breaches(modules("recipes") + modules("evsys_web"), *scripts) == []


def test_the_dashboard_imports_no_vendor() -> None:
    assert breaches(modules("evsys_web"), *VENDORS) == []


def test_algorithms_do_not_name_a_backend() -> None:
    """But for TRL's, which read models and write adapters as the local backend does: which files may be read is one rule."""
    others = [path for path in modules("recipes/algorithms") if not starts_with(dotted(path), "recipes.algorithms.trl")]
    assert breaches(others, "recipes.backends") == []
    engine = [f"recipes.backends.{name}" for name in ("tinker", "mock", "local.backend", "local.engine")]
    assert breaches(modules("recipes/algorithms/trl"), *engine, "recipes.backends.local.LocalBackend") == []


def test_backends_know_neither_algorithms_nor_the_loop() -> None:
    assert breaches(modules("recipes/backends"), "recipes.algorithms", "recipes.loop") == []


def test_the_loop_imports_no_concrete_algorithm_or_backend() -> None:
    assert breaches([ROOT / "recipes/loop.py"], "recipes.algorithms", "recipes.backends") == []


@pytest.mark.parametrize("app", APPS)
def test_an_app_imports_only_lower_apps(app: str) -> None:
    higher = [f"evsys_web.{name}" for name in APPS[APPS.index(app) + 1 :]]
    assert breaches(modules(f"evsys_web/{app}"), *higher) == []


def test_models_know_neither_actions_nor_views() -> None:
    models = [path for path in modules("evsys_web") if path.name == "models.py"]
    names = [f"evsys_web.{app}.{module}" for app in APPS for module in ("actions", "tasks", "views", "forms", "api")]
    assert models
    assert breaches(models, *names, top_level_only=True) == []


def test_every_app_on_disk_has_its_place_in_the_order() -> None:
    on_disk = {path.parent.name for path in (ROOT / "evsys_web").glob("*/apps.py")}
    assert on_disk == set(APPS)


def loaded_after(source: str) -> set[str]:
    """Top-level packages in sys.modules of a fresh interpreter after running `source`."""
    script = f"{source}\nimport sys\nsys.stdout.write(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    command = [sys.executable, "-c", script]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=240).stdout.split())


def test_importing_recipes_loads_no_vendor_and_no_django() -> None:
    assert not loaded_after("import recipes") & (HEAVY | {"django"})


def test_every_algorithm_and_its_config_loads_without_a_vendor() -> None:
    source = "from recipes.registry import algorithms\nfor kind in algorithms.kinds(): algorithms.get(kind).Config"
    assert not loaded_after(source) & (HEAVY | {"django"})


def test_every_backend_config_loads_without_a_vendor() -> None:
    source = "from recipes.registry import backends\nfor kind in backends.kinds(): backends.get(kind).Config"
    assert not loaded_after(source) & (HEAVY | {"django"})


def test_every_verifier_and_the_eval_runner_load_without_a_vendor() -> None:
    source = "import recipes.evals.runner\nfrom recipes.registry import verifiers as v\nfor kind in v.kinds(): v.get(kind).Config"
    assert not loaded_after(source) & (HEAVY | {"django", "jsonschema", "regex"})


def test_a_web_process_loads_no_training_package() -> None:
    source = "import evsys_web.asgi\nfrom django.urls import get_resolver\nget_resolver().url_patterns"
    assert not loaded_after(source) & HEAVY
