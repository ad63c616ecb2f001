"""Run folders of rLLM (`rllm eval`), as a folder or a zip file: results.json, meta.json, episodes/episode_<number>_<name>.json.

The name of an episode file ends in the task's id or, as its writer really does it, in task and rollout; either way it is not
trusted: escaped ids collide, and attempts would become tasks. The task's id stands in the episode's body, before the last
colon of `id`; attempts with one `idx` are one task, also where some of their episodes are missing. A run that was cut off has
no results.json; its episodes are then read alone. An attempt that ended for reasons of infrastructure is an error.

An episode may hold several trajectories: the conversation is that of the first, or of the first with the name asked for. Reward
and signals are those that rLLM gives the attempt: of the first.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from recipes.errors import DataError
from recipes.evals.imported import Found, ImportedAttempt, attempt_from, messages_of, number_of
from recipes.jsonl import NOTHING, At, Words, parse_json
from recipes.types import Row

MAX_EPISODE_BYTES = 32 * 1024 * 1024
MAX_RESULTS_BYTES = 48 * 1024 * 1024
NUM_NAMES = 20
OTHERS = "Trajectories after the first of their episode, one of which can be taken by its name"
EPISODE = re.compile(r"episodes/episode_(\d{1,12})_[^/]*\.json$")
ENDED_BY_ERROR = frozenset(
    ["error", "timeout", "model_error", "verifier_timeout", "verifier_error", "grading_error", "sandbox_error", "env_error"]
)
"""Values of termination_reason that say nothing about the model."""


class Folder(Protocol):
    """Names are relative to the run's folder, with slashes."""

    def names(self) -> list[str]: ...

    def read(self, name: str, limit: int, at: At) -> bytes:
        """Raises DataError for a file that is larger than the limit or cannot be read."""
        ...


class _Directory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        found = [name for name in ("results.json", "meta.json") if (self.path / name).is_file()]
        return found + sorted(f"episodes/{path.name}" for path in (self.path / "episodes").glob("*.json") if path.is_file())

    def read(self, name: str, limit: int, at: At) -> bytes:
        try:
            with (self.path / name).open("rb") as stream:
                return _limited(stream.read(limit + 1), name, limit, at)
        except OSError as error:
            at.refuse(name, Words(error.strerror or "a file that cannot be opened"), "a file that can be read")


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        every = archive.namelist()
        marks = [name for name in every if name.endswith("results.json") or EPISODE.search(name)]
        shortest = min(marks, key=lambda name: (name.count("/"), len(name)), default="")
        self.root = EPISODE.sub("", shortest) if EPISODE.search(shortest) else shortest.removesuffix("results.json")
        self.every = [name.removeprefix(self.root) for name in every if name.startswith(self.root)]

    def names(self) -> list[str]:
        return sorted(self.every)

    def read(self, name: str, limit: int, at: At) -> bytes:
        try:
            with self.archive.open(self.root + name) as stream:
                return _limited(stream.read(limit + 1), name, limit, at)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            at.refuse(name, Words(f"an entry that cannot be unpacked ({error})"), "a zip file that is whole and not encrypted")


def _limited(text: bytes, name: str, limit: int, at: At) -> bytes:
    if len(text) > limit:
        at.refuse(name, Words("a file that is too large"), f"at most {limit // 2**20} MiB")
    return text


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """Raises DataError for a zip file that is broken."""
    if path.is_dir():
        yield _Directory(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        At(1).refuse("", Words(f"a zip file that cannot be read ({error})"), "a whole zip file")
    with archive:
        yield _Zip(archive)


def scan(path: Path, trajectory: str = "") -> Iterator[Found]:
    """trajectory: the name of the one to take from every episode. Raises DataError where none has it."""
    with opened(path) as folder:
        names = folder.names()
        episodes: dict[int, list[str]] = {}
        for name in names:
            if match := EPISODE.match(name):
                episodes.setdefault(int(match[1]), []).append(name)
        run = _Run(folder, episodes, _object(folder, "meta.json", At(1)) if "meta.json" in names else {}, trajectory)
        if "results.json" in names:
            yield from run.from_results(_object(folder, "results.json", At(1)))
        elif episodes:
            yield from run.from_episodes()
        else:
            At(1).refuse("", Words("neither results.json nor episodes/"), "the folder of one rLLM run")
        run.refuse_unknown_trajectory()
        yield from (Found(1, None, "episode", OTHERS) for _ in range(run.num_others))


def _object(folder: Folder, name: str, at: At) -> Row:
    value = parse_json(folder.read(name, MAX_RESULTS_BYTES, at), at)
    if not isinstance(value, dict):
        at.refuse(name, value, "one JSON object")
    return value


class _Run:
    """One run while it is read. `task_ids`: idx → the id that the first episode of the task gave."""

    def __init__(self, folder: Folder, episodes: dict[int, list[str]], meta: Row, trajectory: str) -> None:
        self.folder = folder
        self.episodes = episodes
        self.meta = meta
        self.attempts = 1
        self.task_ids: dict[int, str] = {}
        self.trajectory = trajectory
        self.has_trajectory = not trajectory
        self.num_others = 0
        self.trajectory_names: dict[str, None] = {}

    def refuse_unknown_trajectory(self) -> None:
        if not self.has_trajectory:
            names = ", ".join(repr(name) for name in self.trajectory_names) or "none with a name"
            At(1).refuse("trajectories", Words(f"no {self.trajectory[:80]!r} in any episode"), f"one of those there are: {names}")

    def from_results(self, results: Row) -> Iterator[Found]:
        items = results.get("items", NOTHING)
        if not isinstance(items, list):
            At(1).refuse("results.json, items", items, "a list of results")
        self._count_attempts(results.get("attempts") or self.meta.get("attempts"))
        self.meta = {"model": results.get("model"), **self.meta}
        without_id: list[tuple[int, Row]] = []
        for number, item in enumerate(items, start=1):
            at = At(number, "item")
            try:
                found = self._item(item, at)
            except DataError as error:
                yield Found(number, error, "item")
                continue
            if found is None:
                without_id.append((number, item))
            else:
                yield Found(number, found, "item")
        for number, item in without_id:
            at = At(number, "item")
            try:
                task_id = self.task_ids.get(item["idx"], f"task-{item['idx']}")
                yield Found(number, self._attempt(item, {}, task_id, at), "item")
            except DataError as error:
                yield Found(number, error, "item")

    def _item(self, item: Any, at: At) -> ImportedAttempt | None:
        """None for an item without an episode whose task has no name yet."""
        if not isinstance(item, dict):
            at.refuse("", item, "an object with idx, reward and is_correct")
        idx, attempt = _whole(item.get("idx", NOTHING), "idx", at), _whole(item.get("attempt") or 0, "attempt", at)
        if item.get("error") is None and item.get("is_correct") is None:
            at.refuse("is_correct", item.get("is_correct", NOTHING), "true or false")
        names = self.episodes.get(idx * self.attempts + attempt, [])
        if len(names) > 1:
            at.refuse("episodes", Words(f"{len(names)} files of number {idx * self.attempts + attempt}"), "one per attempt")
        body = self._body(names[0], at) if names else {}
        named = _task_id(body) or _text(item.get("task_id"))
        if named:
            self.task_ids.setdefault(idx, named)
        if not body and not named:
            return None
        return self._attempt(item, body, self.task_ids.get(idx, f"task-{idx}"), at)

    def from_episodes(self) -> Iterator[Found]:
        """A run without results.json: every episode says itself how it went. Numbers tell the tasks apart by `attempts`."""
        self._count_attempts(self.meta.get("attempts"))
        for number, names in sorted(self.episodes.items()):
            at = At(number, "episode")
            try:
                if len(names) > 1:
                    at.refuse("", Words(f"{len(names)} files of one number"), "one per attempt")
                body = self._body(names[0], at)
                idx, attempt = divmod(number, self.attempts)
                task_id = self.task_ids.setdefault(idx, _task_id(body) or f"task-{idx}")
                yield Found(number, self._attempt(_item_of(body, at) | {"attempt": attempt}, body, task_id, at), "episode")
            except DataError as error:
                yield Found(number, error, "episode")

    def _count_attempts(self, value: Any) -> None:
        self.attempts = max(1, _whole(value or 1, "attempts", At(1)))

    def _body(self, name: str, at: At) -> Row:
        body = parse_json(self.folder.read(name, MAX_EPISODE_BYTES, at), at)
        if not isinstance(body, dict):
            at.refuse(name, body, "one episode, a JSON object")
        return body

    def _attempt(self, item: Row, body: Row, task_id: str, at: At) -> ImportedAttempt:
        reason = item.get("termination_reason") or body.get("termination_reason")
        error = item.get("error")
        if error is None and str(reason).lower() in ENDED_BY_ERROR:
            error = _error_message(body) or f"ended with {reason}"
        values = {key: item.get(key) for key in ("attempt", "reward", "is_correct", "signals")}
        if error is not None:
            values |= {"error": str(error) or "an error without words", "is_correct": None, "error_kind": _text(reason)}
        trajectory = self._taken(_list(body.get("trajectories")))
        info = {"idx": item.get("idx"), "num_steps": len(_list(trajectory.get("steps"))) or None, "episode": body.get("id")}
        info |= {"trajectory": self.trajectory or None}
        result = attempt_from(
            values | {"task_id": task_id, "attempt": item.get("attempt") or 0, "stop_reason": _text(reason)},
            at,
            messages=messages_of(conversation(trajectory, at), "chat_completions", at),
            info={key: value for key, value in info.items() if value is not None},
        )
        task = body.get("task")
        answer = (
            next((task[key] for key in ("answer", "ground_truth", "target") if task.get(key) is not None), None)
            if isinstance(task, dict)
            else None
        )
        return ImportedAttempt(result, answer, _text(self.meta.get("model")))

    def _taken(self, trajectories: list[Any]) -> Row:
        """The one that is the attempt; {} where an episode has none of that name, and so no conversation to learn from."""
        if not self.trajectory:
            self.num_others += max(0, len(trajectories) - 1)
            return _first(trajectories)
        named = [(_text(each.get("name")), each) for each in trajectories if isinstance(each, dict)]
        for name, _ in named:
            if name and len(self.trajectory_names) < NUM_NAMES:
                self.trajectory_names.setdefault(name[:80])
        found = next((each for name, each in named if name == self.trajectory), None)
        self.has_trajectory |= found is not None
        return found or {}


def conversation(trajectory: Row, at: At) -> list[Any]:
    """The longest history known: that of the last step with at least two messages."""
    for step in reversed(_list(trajectory.get("steps"))):
        messages = step.get("chat_completions") if isinstance(step, dict) else None
        if isinstance(messages, dict):
            messages = _expanded(messages, trajectory.get("message_nodes"), at)
        if isinstance(messages, list) and len(messages) >= 2:
            return messages
    return []


def _expanded(marker: Row, nodes: Any, at: At) -> list[Any]:
    """The compact form: a step names the last message and their number; every message names the one before it."""
    reference = marker.get("messages_ref")
    if not isinstance(reference, list) or len(reference) != 2 or not isinstance(reference[1], int) or not isinstance(nodes, dict):
        at.refuse("chat_completions", marker, "messages, or messages_ref beside message_nodes")
    leaf, length = reference
    messages: list[Any] = []
    while leaf is not None and len(messages) <= length:
        node = nodes.get(leaf) if isinstance(leaf, str) else None
        if not isinstance(node, dict):
            at.refuse("message_nodes", Words("a message that is not there"), "every message that a step refers to")
        messages.append(node.get("m"))
        leaf = node.get("p")
    if len(messages) != length:
        at.refuse("message_nodes", Words(f"{len(messages)} messages in a chain of {length}"), "as many as the step says")
    return messages[::-1]


def _item_of(body: Row, at: At) -> Row:
    """What results.json would have said of an episode: reward and signals are those of the first trajectory."""
    trajectory = _first(body.get("trajectories"))
    reward = trajectory.get("reward")
    return {
        "idx": None,
        "reward": 0.0 if reward is None else number_of(reward, "reward", at),
        "is_correct": bool(body.get("is_correct")),
        "signals": trajectory.get("signals"),
    }


def _task_id(body: Row) -> str:
    """`id` is <task>:<rollout>; an id without a colon names the task itself."""
    whole = _text(body.get("id"))
    return whole.rpartition(":")[0] or whole


def _error_message(body: Row) -> str:
    metadata = body.get("metadata")
    error = metadata.get("error") if isinstance(metadata, dict) else None
    return _text(error.get("message")) if isinstance(error, dict) else _text(error)


def _first(value: Any) -> Row:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _whole(value: Any, path: str, at: At) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value > 10**9:
        at.refuse(path, value, "a whole number from 0")
    return value
