"""The Hugging Face hub, through its own client: which files of a dataset hold rows, fetching them, and publishing ours.

The server is the one that the operator's HF_ENDPOINT names, else huggingface.co; nobody else can name one. A call without a key
of the project sends none: the operator's own key, wherever it lies on this machine, is not the users' to spend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from evsys_web.hub import hub_errors
from recipes.errors import ConfigError

REPO_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}", re.ASCII)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
MAX_BYTES = 20 * 1024**3
TIMEOUT_SECONDS = 30


class HubFiles(NamedTuple):
    """`commit`: the revision as it stands now. `splits`: names of files per split, in their order. `num_bytes`: of them all."""

    commit: str
    splits: dict[str, list[str]]
    num_bytes: int


def check_repo_id(text: str, *, needs_owner: bool = False) -> str:
    """Raises ConfigError with path ("repo_id",)."""
    name = text.strip()
    if not REPO_ID.fullmatch(name) or "--" in name or ".." in name or (needs_owner and "/" not in name):
        raise ConfigError(f"{name[:80]!r} is no dataset on the hub: write owner/name.", path=("repo_id",))
    return name


def find_files(repo_id: str, *, config: str = "", revision: str = "", token: str | None = None) -> HubFiles:
    """The files that hold the rows of a dataset, as its card says, else by their names. Raises ConfigError, BackendError."""
    from huggingface_hub import HfApi

    with hub_errors(repo_id):
        info = HfApi(token=token or False).dataset_info(
            repo_id, revision=revision or None, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or () if _is_rows(each.rfilename)}
    if not sizes:
        raise ConfigError(f"{repo_id} holds no Parquet, JSONL, JSON or CSV file.", path=("repo_id",))
    configs = info.card_data.get("configs") if info.card_data else None
    splits = _by_card(repo_id, configs, config, list(sizes)) or _by_name(repo_id, config, sorted(sizes))
    num_bytes = sum(sizes[name] for names in splits.values() for name in names)
    if num_bytes > MAX_BYTES:
        raise ConfigError(f"{repo_id} has {num_bytes / 1024**3:,.0f} GB of rows; 20 are the most.", path=("repo_id",))
    return HubFiles(info.sha or revision or "main", splits, num_bytes)


def _is_rows(name: str) -> bool:
    """A file of rows, under a path that stays where it is put."""
    parts = PurePosixPath(name).parts
    stays = not name.startswith("/") and not any(part == ".." or part.startswith(".") for part in parts)
    is_tame = stays and name.isprintable() and "\\" not in name
    return is_tame and name.lower().endswith(SUFFIXES)


def _by_card(repo_id: str, configs: Any, wanted: str, names: Sequence[str]) -> dict[str, list[str]]:
    """What the card's `configs` says; {} where it says nothing that can be read. Raises ConfigError for a choice to be made."""
    known = [each for each in configs if isinstance(each, dict) and each.get("data_files")] if isinstance(configs, list) else []
    if not known:
        return {}
    by_name = {str(each.get("config_name", "default")): each for each in known}
    default = next((name for name, each in by_name.items() if each.get("default") or name == "default"), "")
    chosen = wanted or default or (next(iter(by_name)) if len(by_name) == 1 else "")
    if chosen not in by_name:
        _refuse_config(repo_id, chosen, list(by_name))
    found: dict[str, list[str]] = {}
    for split, patterns in _entries(by_name[chosen]["data_files"]):
        texts = [pattern for pattern in (patterns if isinstance(patterns, list) else [patterns]) if isinstance(pattern, str)]
        files = [name for name in sorted(names) if any(fnmatchcase(name, pattern.removeprefix("./")) for pattern in texts)]
        if files:
            found.setdefault(split, []).extend(files)
    if not found:
        raise ConfigError(f"The card of {repo_id} names no file of rows for the config {chosen[:60]!r}.", path=("config",))
    return found


def _entries(data_files: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data_files, list) and all(isinstance(each, dict) for each in data_files):
        yield from ((str(each.get("split", "train")), each.get("path")) for each in data_files)
    elif isinstance(data_files, dict):
        yield from ((str(split), patterns) for split, patterns in data_files.items())
    else:
        yield "train", data_files


def _by_name(repo_id: str, wanted: str, names: Sequence[str]) -> dict[str, list[str]]:
    """train-00000-of-00002.parquet, data/validation.jsonl, test.csv; a folder is a config. Raises ConfigError."""
    folders = {name: [part for part in PurePosixPath(name).parts[:-1] if part != "data"] for name in names}
    configs = list(dict.fromkeys(parts[0] for parts in folders.values() if parts and parts[0].lower() not in SPLIT_WORDS))
    if wanted and wanted not in configs:
        _refuse_config(repo_id, wanted, configs)
    is_mixed = len(configs) > 1 or (configs and any(not parts for parts in folders.values()))
    if not wanted and is_mixed:
        _refuse_config(repo_id, "", configs)
    found: dict[str, list[str]] = {}
    for name in names:
        if not wanted or wanted in folders[name]:
            found.setdefault(_split_of(name), []).append(name)
    return found


def _refuse_config(repo_id: str, wanted: str, known: Sequence[str]) -> None:
    listed = ", ".join(known[:20]) or "none"
    what = f"{repo_id} has no config {wanted[:60]!r}" if wanted else f"{repo_id} has several configs; name one"
    raise ConfigError(f"{what}. It has: {listed}.", path=("config",))


def _split_of(name: str) -> str:
    stem = PurePosixPath(name).stem
    if shard := SHARD.fullmatch(stem):
        return SPLIT_WORDS.get(shard[1].lower(), shard[1])
    words = re.split(r"[^A-Za-z0-9]+", f"{stem} {' '.join(reversed(PurePosixPath(name).parts[:-1]))}".lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")


def fetch_file(repo_id: str, name: str, *, commit: str, folder: Path, token: str | None) -> Path:
    """One file of the dataset, below the folder. Raises ConfigError, BackendError."""
    from huggingface_hub import hf_hub_download

    with hub_errors(repo_id):
        return Path(hf_hub_download(repo_id, name, repo_type="dataset", revision=commit, local_dir=folder, token=token or False))


def publish_files(repo_id: str, files: Mapping[str, Path | bytes], *, private: bool, message: str, token: str) -> str:
    """One commit with these files (path in the dataset → content), in a dataset made if there is none. Gives its address.
    Raises ConfigError for one that is public although private was asked for, BackendError."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with hub_errors(repo_id):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.dataset_info(repo_id, timeout=TIMEOUT_SECONDS).private:
            raise ConfigError(
                f"{repo_id} is there already and everybody can read it. Choose another name, or publish for everybody.",
                path=("private",),
            )
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        done = api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset")
    return str(done.commit_url)
