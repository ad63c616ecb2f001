"""No file that somebody brought is ever run: nothing unpickles, nothing asks for a model's own code, weights are safetensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for tree in ("recipes", "evsys_web", "benchmarks", "docs") for path in (ROOT / tree).rglob("*.py"))
UNPICKLE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
FORBIDDEN = {"torch.load", "torch.save", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}
OFF = {"trust_remote_code": False, "allow_pickle": False, "shell": False}
LOADERS = {"from_pretrained", "from_config", "load_dataset", "pipeline"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Name of what is called, without what it is called on, and the call."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Call):
            called = node.func
            yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", ""), node


def options(call: ast.Call) -> dict[str, object]:
    return {word.arg: getattr(word.value, "value", word.value) for word in call.keywords if word.arg}


def test_nothing_that_somebody_brought_is_run() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not UNPICKLE & {name.partition(".")[0] for name in names}, path
        for name, call in calls(path):
            if why := mistake(name, call):
                raise AssertionError(f"{path.relative_to(ROOT)}:{call.lineno}: {why}: {ast.unparse(call)[:100]}")


def mistake(name: str, call: ast.Call) -> str | None:
    given, called = options(call), ast.unparse(call.func)
    if (called == name and name in RUNS_TEXT) or called in FORBIDDEN:
        return "runs text, or reads a file that may hold code"
    if wrong := [word for word, good in {**OFF, "weights_only": True}.items() if given.get(word, good) is not good]:
        return f"{wrong[0]} is set"
    if called in {"np.load", "numpy.load"} and "allow_pickle" not in given:
        return "does not say allow_pickle=False"
    if name == "from_pretrained" and "Auto" in called and given.get("trust_remote_code") is not False:
        return "does not say trust_remote_code=False"
    if name == "from_pretrained" and "AutoModel" in called and given.get("use_safetensors") is not True:
        return "does not say use_safetensors=True"
    return None


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "torch.load(x)", "f(x, shell=True)", "np.load(x)", "np.load(x, allow_pickle=True)", "f(trust_remote_code=True)"]
    + ["AutoModel.from_pretrained(x, trust_remote_code=False)", "AutoConfig.from_pretrained(x)", "f(x, weights_only=False)"],
)
def test_a_mistake_would_be_seen(code: str) -> None:
    [call] = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert mistake(getattr(call.func, "attr", None) or getattr(call.func, "id", ""), call)


def test_there_is_something_to_look_at() -> None:
    loaded = [ast.unparse(call.func) for path in SOURCES for name, call in calls(path) if name in LOADERS | {"load"}]
    assert len(SOURCES) > 200 and {"AutoModelForCausalLM.from_pretrained", "np.load"} <= set(loaded)
