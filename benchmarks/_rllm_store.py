"""Attempts as rLLM keeps them, a JSON file each, and a curation of them as rLLM makes it: read again for every threshold.

The layout is that of `rllm eval`: results.json with a line of numbers per attempt, and episodes/episode_<number>_<task>.json with
the conversation. A pass reads results.json, lists the folder, pools attempts by the task in the file name and reads the episode
of every attempt it chooses; nothing is kept between passes. The code is our own, and plainer than the original where that helps
it: the filter is a comparison in Python, and provenance, scores and the panel are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipes.types import Row


def write_store(folder: Path, attempts: Iterable[Row]) -> None:
    """attempts: task, number, is_correct, reward, messages; tasks one after the other."""
    (folder / "episodes").mkdir(parents=True)
    items = []
    for number, attempt in enumerate(attempts):
        messages, task = attempt["messages"], attempt["task_id"]
        step = {
            "chat_completions": messages,
            "model_response": messages[-1]["content"],
            "thought": "",
            "reward": attempt["reward"],
        }
        episode = {
            "id": f"{task}:{attempt['attempt']}",
            "task": {"question": messages[0]["content"]},
            "termination_reason": "env_done",
            "is_correct": attempt["is_correct"],
            "trajectories": [
                {"uid": str(number), "name": "solver", "steps": [step | {"done": True}], "reward": attempt["reward"]}
            ],
            "metrics": {},
        }
        (folder / "episodes" / f"episode_{number:06}_{task}.json").write_text(json.dumps(episode))
        idx = int(task.rpartition("-")[2])
        verdict = {"reward": attempt["reward"], "is_correct": attempt["is_correct"], "error": None}
        items.append({"idx": idx, "attempt": attempt["attempt"]} | verdict)
    (folder / "results.json").write_text(json.dumps({"attempts": 8, "items": items}))


def curate_store(folder: Path, low: float, high: float, *, read_all: bool = False) -> list[Row]:
    """The right attempts of tasks with low < avg < high, as rows. read_all: read every episode, not the chosen ones alone."""
    results = json.loads((folder / "results.json").read_text())
    paths = {int(path.name[8:14]): path for path in (folder / "episodes").iterdir()}
    groups: dict[str, list[tuple[Row, Path]]] = {}
    for item in results["items"]:
        path = paths[item["idx"] * results["attempts"] + item["attempt"]]
        groups.setdefault(path.stem[15:], []).append((item, path))
    rows = []
    for task, group in groups.items():
        conversations = [_conversation(path) for _, path in group] if read_all else None
        if not low < sum(item["is_correct"] for item, _ in group) / len(group) < high:
            continue
        for place, (item, path) in enumerate(group):
            if item["is_correct"]:
                messages = conversations[place] if conversations is not None else _conversation(path)
                rows.append({"messages": messages, "task_id": task, "attempt": item["attempt"], "reward": item["reward"]})
    return rows


def _conversation(path: Path) -> list[Row]:
    episode: dict[str, Any] = json.loads(path.read_text())
    steps = episode["trajectories"][0]["steps"]
    return [{"role": each["role"], "content": each["content"]} for each in steps[-1]["chat_completions"]]


def register(rows: list[Row], folder: Path) -> None:
    """The rows as Parquet, once as they are and once more inside a column for its trainer, as its registry does."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    wrapped = [{"prompt": [{"role": "user", "content": "placeholder"}], "extra_info": row} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(wrapped), folder / "train_verl.parquet")
