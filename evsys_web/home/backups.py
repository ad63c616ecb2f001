"""The embedded size in one file, and back: the database, the files that it names, and the keys that open what it holds.

The database is copied first, by SQLite's own online backup, so that whatever its rows name was on disk before. Of a run's folder
the manifest comes first and its points before its weights: a checkpoint that is named has both. Work that was running goes on
from there: in the copy its worker is one that was lost.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Model, Value
from django.db.models.functions import Replace
from django.utils.timezone import now

from evsys_web.runs.models import Checkpoint
from recipes.checkpoints import MANIFEST_FILE
from recipes.errors import RecipeError
from recipes.stores import write_atomically

ABOUT, DATABASE = "backup.json", "evsys.sqlite3"
FOLDERS = ("files", "runs", "tinker")
KEYS = ("secret_key", "credential_key")
FORMAT = 1
PATHS_IN = (MANIFEST_FILE, "adapter_config.json")
"""Files of a run that hold paths of other files."""
SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database. Left over from another one, they would be replayed into the one that is put back."""


class BackupRefused(RecipeError):
    """It cannot be made, or not be put back here."""


class Summary(NamedTuple):
    """vanished: files that were deleted while the backup was made."""

    num_files: int
    num_bytes: int
    vanished: list[str]


def write_backup(target: Path) -> Summary:
    """A tar file that only its owner may read, complete or not there at all. Raises BackupRefused."""
    _only_sqlite()
    home = Path(settings.HOME)
    target = target.expanduser().resolve()
    if target.exists():
        raise BackupRefused(f"{target} exists already. Name a new file.")
    if any(target.is_relative_to(home / folder) for folder in FOLDERS):
        raise BackupRefused(f"{target} lies in a folder that is backed up itself. Name a file elsewhere.")
    part = target.with_name(f"{target.name}.part")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            snapshot = Path(scratch) / DATABASE
            copy_database(snapshot)
            with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:  # noqa: PTH123 - its opener
                summary = _write(tarfile.TarFile(fileobj=file, mode="w"), home, snapshot)
                file.flush()
                os.fsync(file.fileno())
        part.replace(target)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BackupRefused(f"The backup could not be written to {target.parent}: {reason}.") from None
    finally:
        part.unlink(missing_ok=True)
    return summary


def copy_database(target: Path) -> None:
    """A consistent copy while others write. Raises BackupRefused when it is damaged."""
    name = str(connection.settings_dict["NAME"])
    with closing(sqlite3.connect(name, timeout=20)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        found = copy.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise BackupRefused(f"The database is damaged: {found}. Put an older backup back.")


def _write(tar: tarfile.TarFile, home: Path, snapshot: Path) -> Summary:
    about = {"format": FORMAT, "home": str(home), "made_at": now().isoformat(), "migrations": _applied()}
    with tempfile.NamedTemporaryFile("w+", dir=snapshot.parent, suffix=".json") as file:
        json.dump(about, file)
        file.flush()
        tar.add(file.name, ABOUT)
    tar.add(snapshot, DATABASE)
    num_files, num_bytes, vanished = 0, snapshot.stat().st_size, []
    for path in [*(home / key for key in KEYS), *(path for folder in FOLDERS for path in files_below(home / folder))]:
        try:
            info = tar.gettarinfo(path, path.relative_to(home).as_posix())
            with path.open("rb") as content:
                tar.addfile(info, content)
        except FileNotFoundError:
            if path.name not in KEYS:  # given by the environment
                vanished.append(path.relative_to(home).as_posix())
            continue
        num_files, num_bytes = num_files + 1, num_bytes + info.size
    tar.close()
    return Summary(num_files, num_bytes, vanished)


def files_below(folder: Path) -> Iterator[Path]:
    """Ordinary files: in every folder the manifest first, files before folders; nothing that waits for its removal."""
    if not folder.is_dir():
        return
    inside = sorted(folder.iterdir(), key=lambda path: (path.name != MANIFEST_FILE, path.is_dir(), path.name))
    for path in inside:
        if path.is_symlink() or path.name.endswith(".deleted"):
            continue
        if path.is_dir():
            yield from files_below(path)
        elif path.is_file():
            yield path


def restore_backup(archive: Path) -> Summary:
    """Put a backup back into an EVSYS_HOME without data, and bring its tables up to this release. Raises BackupRefused."""
    _only_sqlite()
    home, database = Path(settings.HOME), Path(str(connection.settings_dict["NAME"]))
    replaced = [Path(f"{database}{end}") for end in ("", *SIDE_FILES)] + [home / folder for folder in FOLDERS]
    if any(_holds_something(path) for path in replaced):
        raise BackupRefused(f"{home} holds data. Name an empty folder with EVSYS_HOME, or move this one away first.")
    try:
        with tarfile.open(archive) as tar:
            about = _about(tar)
            summary = _unpack(tar, home, database)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BackupRefused(f"{archive} cannot be put back: {error}. Nothing in it was used.") from None
    call_command("migrate", verbosity=0, interactive=False)
    if about["home"] != str(home):
        _relocate(about["home"], str(home))
    return summary


def _holds_something(path: Path) -> bool:
    """It is a file or a link, or a folder with one of them anywhere in it, also one that a backup would leave out."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        return True
    return any(found.is_symlink() or not found.is_dir() for found in path.rglob("*"))


def _about(tar: tarfile.TarFile) -> dict[str, Any]:
    try:
        content = tar.extractfile(ABOUT)
        about = json.loads(content.read(10_000_000)) if content else {}
        known = about["format"] == FORMAT and isinstance(about["home"], str)
        applied = {tuple(each) for each in about["migrations"]}
    except (KeyError, ValueError, TypeError):
        known, applied = False, set()
    if not known:
        raise BackupRefused("This is no backup of EvSys Web, or of another format.")
    ours = MigrationLoader(None, ignore_no_migrations=True).disk_migrations or {}
    if newer := sorted(applied - set(ours)):
        names = ", ".join(f"{app}.{name}" for app, name in newer[:3])
        raise BackupRefused(f"The backup was made by a newer release (it knows {names}). Install that release first.")
    return dict(about)


def _unpack(tar: tarfile.TarFile, home: Path, database: Path) -> Summary:
    """The database comes to its place last, so that what was interrupted is not taken for whole."""
    members = tar.getmembers()
    for member in members:
        top = member.name.partition("/")[0]
        if not (member.isfile() and (member.name in (ABOUT, DATABASE, *KEYS) or top in FOLDERS)):
            raise BackupRefused(f"The backup holds {member.name!r}, which has no business in one. Nothing of it was used.")
    if DATABASE not in {member.name for member in members}:
        raise BackupRefused("The backup holds no database: it is not whole. Nothing of it was used.")
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        tar.extractall(scratch, members=members, filter="data")
        _refuse_no_database(Path(scratch) / DATABASE)
        for name in (*KEYS, *FOLDERS):
            source, target = Path(scratch) / name, home / name
            if not source.exists():
                continue
            if target.is_dir():
                shutil.rmtree(target)  # without any file in it: that was asked before
            source.replace(target)
        shutil.move(Path(scratch) / DATABASE, database)
    return Summary(len(members) - 2, sum(member.size for member in members), [])


def _refuse_no_database(file: Path) -> None:
    """Before anything comes to its place."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as read:
            read.execute("SELECT name FROM django_migrations LIMIT 1")
    except sqlite3.DatabaseError as error:
        raise BackupRefused(f"What the backup holds as its database is none of ours ({error}). Nothing of it was used.") from None


def _relocate(old: str, new: str) -> None:
    """Paths of weights are absolute: in rows, in configs, in manifests."""
    with transaction.atomic():
        for field in ("state_uri", "sampler_uri"):
            rows = Checkpoint.objects.filter(**{f"{field}__startswith": f"{old}/"})
            rows.update(**{field: Replace(field, Value(f"{old}/"), Value(f"{new}/"))})
        for model in apps.get_models():
            if any(field.name == "config" for field in model._meta.concrete_fields):
                _relocate_configs(model, old, new)
    for path in files_below(Path(new) / "runs"):
        if path.name in PATHS_IN and (text := path.read_text(encoding="utf-8")) != (moved := _moved(text, old, new)):
            write_atomically(path, moved)


def _relocate_configs(model: type[Model], old: str, new: str) -> None:
    for pk, config in list(model._default_manager.values_list("pk", "config")):
        text = json.dumps(config, ensure_ascii=False)
        if (moved := _moved(text, old, new)) != text:
            model._default_manager.filter(pk=pk).update(config=json.loads(moved))


def _moved(text: str, old: str, new: str) -> str:
    """JSON text with paths below `old` now below `new`."""
    before, after = (json.dumps(f"{path}/", ensure_ascii=False)[:-1] for path in (old, new))  # a path begins its string
    return text.replace(before, after)


def _applied() -> list[tuple[str, str]]:
    return sorted(MigrationRecorder(connection).applied_migrations())


def _only_sqlite() -> None:
    if connection.vendor != "sqlite":
        raise BackupRefused(
            "This is for the embedded size. For PostgreSQL use pg_dump and pg_restore, as docs/operations.md shows."
        )
