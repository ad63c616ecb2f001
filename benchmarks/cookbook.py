"""tinker-cookbook's own sl_loop and rl_loop, unchanged, trained to the end against `manage.py tinker-server`'s application.

    pip install --no-deps --target DIR tinker-cookbook==0.6.1 blobfile chz cloudpickle lxml pillow pycryptodomex
    pip install --no-deps --target DIR pylatexenc pyrage termcolor tiktoken tml-renderers
    PYTHONPATH=DIR python benchmarks/cookbook.py [--steps N]

It is no requirement of the tests, because it cannot be one: 0.6.1 wants a newer tml-renderers than there is to be had, and 0.5.5
an older transformers than this program's. `tests/recipes/tinker_server/test_loops.py` makes the same calls whenever tests run.

What the loops fetch from the hub is local here: the tokenizer is the starter's, under the name of a model that the cookbook has
a renderer for; sl_loop's chats are the starter's rows, rl_loop's questions its tasks. sl_loop renders them with the cookbook's
own renderer. rl_loop puts an example about strawberries before each question, which the starter has never seen the like of, so
its renderer shows the question alone, and a reply is right when what follows its last "Answer:" is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import starter
from recipes.backends.local.config import LocalConfig
from recipes.rendering import load_tokenizer, render_prompt
from recipes.tinker_server import make_server

KEY = "tml-cookbook"
KNOWN = "Qwen/Qwen3-8B"
"""A name that the cookbook has a renderer for; served here, it means the starter."""
ROWS = Path(starter.__file__).parent / "rows"


@contextmanager
def served(root: Path) -> Iterator[str]:
    app = make_server([f"{KNOWN}=starter"], root=root, key=KEY, config=LocalConfig(num_threads=1))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise SystemExit("The server did not start.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROWS / name).read_text().splitlines()]


def dataset_of(rows: list[dict[str, Any]]) -> Any:
    datasets = importlib.import_module("datasets")
    return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})


class QuestionAlone:
    """What rl_loop asks of a renderer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def build_generation_prompt(self, conversation: list[dict[str, str]]) -> Any:
        question = conversation[-1]["content"].partition(" Provide a numerical answer")[0]
        tinker = importlib.import_module("tinker")
        return tinker.ModelInput.from_ints(render_prompt([{"role": "user", "content": question}], self._tokenizer))

    def get_stop_sequences(self) -> list[int]:
        return [self._tokenizer.eos_token_id]

    def parse_response(self, tokens: list[int]) -> tuple[dict[str, str], bool]:
        return {"role": "assistant", "content": self._tokenizer.decode(tokens, skip_special_tokens=True)}, True


def supervised(url: str, folder: Path, steps: int) -> list[float]:
    """Mean loss of each step."""
    loop: Any = importlib.import_module("tinker_cookbook.recipes.sl_loop")
    chats = dataset_of([{"messages": row["messages"]} for row in rows("train.jsonl")])
    loop.datasets = SimpleNamespace(load_dataset=lambda *_: chats, DatasetDict=type(chats))
    config = loop.Config(
        base_url=url,
        log_path=str(folder / "sl"),
        model_name=KNOWN,
        batch_size=32,
        learning_rate=1e-2,
        max_length=512,
        lora_rank=8,
        save_every=max(1, steps // 2),
        max_steps=steps,
    )
    loop.main(config)
    return _column(folder / "sl", "train_mean_nll")


def reinforced(url: str, folder: Path, steps: int) -> list[float]:
    """Mean reward of each step."""
    loop: Any = importlib.import_module("tinker_cookbook.recipes.rl_loop")
    tasks = dataset_of(
        [{"question": row["messages"][0]["content"], "answer": str(row["answer"])} for row in rows("tasks_train.jsonl") * 8]
    )
    loop.datasets = SimpleNamespace(load_dataset=lambda *_: tasks, DatasetDict=type(tasks))
    loop.renderers = SimpleNamespace(
        get_renderer=lambda _, tokenizer: QuestionAlone(tokenizer), get_text_content=lambda message: message["content"]
    )
    loop.get_reward = lambda reply, answer: float(reply.rpartition("Answer:")[2].strip() == answer)
    config = loop.Config(
        base_url=url,
        log_path=str(folder / "rl"),
        model_name=KNOWN,
        batch_size=32,
        group_size=8,
        learning_rate=3e-3,
        lora_rank=8,
        save_every=max(1, steps // 2),
        max_tokens=64,
        loss_fn="importance_sampling",
        max_steps=steps,
    )
    loop.main(config)
    return _column(folder / "rl", "reward/total")


def _column(folder: Path, key: str) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [found[key] for line in lines if key in (found := json.loads(line))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    steps = parser.parse_args().steps
    logging.disable(logging.WARNING)
    try:
        tokenizers = importlib.import_module("tinker_cookbook.tokenizer_utils")
    except ModuleNotFoundError as missing:
        print(f"There is no {missing.name} here; the head of this file says how it is installed.", file=sys.stderr)  # noqa: T201
        return 2
    tokenizers.register_tokenizer(KNOWN, lambda: load_tokenizer("starter"))
    # The loops take the key from the environment, as every program of Tinker's does.
    os.environ["TINKER_API_KEY"], os.environ["TINKER_TELEMETRY"] = KEY, "0"
    ends = []
    with tempfile.TemporaryDirectory() as kept, served(Path(kept) / "server") as url:
        for name, train, better in (("sl_loop: loss", supervised, -1), ("rl_loop: reward", reinforced, 1)):
            began = time.perf_counter()
            curve = train(url, Path(kept), steps)
            third = max(1, len(curve) // 3)
            first, last = sum(curve[:third]) / third, sum(curve[-third:]) / third
            ends.append(better * (last - first) > 0 and len(curve) == steps)
            seconds = time.perf_counter() - began
            print(f"{name} of {len(curve)} steps, first third {first:.3f}, last third {last:.3f}, {seconds:.0f} s")  # noqa: T201
    return 0 if all(ends) else 1


if __name__ == "__main__":
    sys.exit(main())
