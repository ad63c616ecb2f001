"""A backup that is put back elsewhere goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

ROOT = Path(settings.ROOT)
Manage = Callable[..., "subprocess.CompletedProcess[str]"]
TRAIN = """
from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.tasks import train_run
from evsys_web.runs.actions import launch_run, resume_run
from recipes.config import RunConfig
user = User.objects.get()
"""
LAUNCH = (
    TRAIN
    + """
config = RunConfig.from_values({
    "name": "sums", "model": {"name": "starter"}, "data": {"dataset": "starter-sums@1"}, "backend": {"kind": "local"},
    "algorithm": {"kind": "sft", "params": {"max_steps": 4, "batch_size": 2, "save_every": 2}},
})
launch_run(user=user, project=user.default_project(), config=config, dataset_version=DatasetVersion.objects.earliest("pk"))
train_run.apply(args=[1])
TrainingRun.objects.filter(pk=1).update(status="running", lease_owner="w/1", lease_until="2026-01-01T00:00:00Z")
"""
)
GO_ON = (
    TRAIN
    + """
from evsys_web.runs.leases import sweep
from evsys_web.runs import metrics
from evsys_web.accounts.actions import reveal_credential
sweep("w2", send=None)
run = TrainingRun.objects.get()
print(run.status, [row.step for row in metrics.after(run, 0)])
print(all(checkpoint.sampler_uri.startswith(str(run.output_dir)) for checkpoint in run.checkpoints.all()))
resume_run(user=user, run=run)
train_run.apply(args=[run.pk])
run.refresh_from_db()
print(run.status, run.step, [event.message for event in run.events.all()][-1])
print(len(run.read_rows()))
"""
)
PREPARE = """
from evsys_web.home.management.commands.up import Command
Command().prepare()
"""


@pytest.fixture
def manage() -> Manage:
    """`manage.py` on an embedded EVSYS_HOME of its own."""

    def run(home: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
        environment = kept | {"EVSYS_HOME": str(home), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.mark.once
def test_a_backup_put_back_elsewhere_goes_on_where_it_was(manage: Manage, tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "evsys.tar"
    manage(old, "shell", "-c", PREPARE + LAUNCH)
    manage(old, "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists already" in manage(old, "backup", str(file), check=False).stderr
    key = (old / "credential_key").read_text()
    shutil.rmtree(old)
    assert "are back" in manage(new, "restore", str(file)).stdout
    assert (new / "credential_key").read_text() == key
    said = manage(new, "shell", "-c", GO_ON).stdout.splitlines()
    assert said[-4:] == ["crashed [1, 2, 3, 4]", "True", said[-2], said[-1]]
    assert said[-2].startswith("completed 4 Resumed from step 4.") and int(said[-1]) > 10
    assert "holds data" in manage(new, "restore", str(file), check=False).stderr


def archive_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def about(**values: object) -> tuple[tarfile.TarInfo, bytes]:
    known = {"format": 1, "home": "/srv", "made_at": "", "migrations": [["accounts", "0001_initial"]]}
    return tarfile.TarInfo("backup.json"), json.dumps(known | values).encode()


DATABASE = (tarfile.TarInfo("evsys.sqlite3"), b"")


def linked(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


@pytest.mark.once
@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([DATABASE], "no backup of EvSys Web"),
        ([about(format=9)], "no backup of EvSys Web"),
        ([about(migrations=[["accounts", "0999_of_tomorrow"]])], "newer release (it knows accounts.0999_of_tomorrow)"),
        ([about(), DATABASE, (tarfile.TarInfo("runs/../../escaped"), b"x")], "cannot be put back"),
        ([about(), (tarfile.TarInfo("/etc/escaped"), b"x")], "no business"),
        ([about(), linked("runs/link", "/etc")], "no business"),
        ([about(), (tarfile.TarInfo("credential_key"), b"theirs")], "holds no database"),
        ([about(), (tarfile.TarInfo("evsys.sqlite3"), b"no SQLite" * 99), (tarfile.TarInfo("runs/1/a"), b"x")], "none of ours"),
    ],
)
def test_what_is_no_backup_of_ours_leaves_nothing_behind(manage: Manage, tmp_path: Path, members: list, sentence: str) -> None:
    home = tmp_path / "home"
    done = manage(home, "restore", str(archive_with(tmp_path / "bad.tar", *members)), check=False)
    assert done.returncode == 1 and sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "evsys.sqlite3").exists() and not list((home / "runs").iterdir())
    assert not (tmp_path / "escaped").exists()
    assert (home / "credential_key").read_text() != "theirs"


@pytest.mark.once
@pytest.mark.parametrize("left", ["evsys.sqlite3-wal", "evsys.sqlite3-journal", "tinker/weights/a", "runs/1/.step-1.deleted/a"])
def test_what_is_left_of_another_installation_is_neither_replayed_nor_deleted(manage: Manage, tmp_path: Path, left: str) -> None:
    file = tmp_path / "home" / left
    file.parent.mkdir(parents=True)
    file.write_text("left")
    archive = archive_with(tmp_path / "x.tar", about(), DATABASE)
    done = manage(tmp_path / "home", "restore", str(archive), check=False)
    assert done.returncode == 1 and "holds data" in done.stderr, done.stderr
    assert file.read_text() == "left" and not (tmp_path / "home" / "evsys.sqlite3").exists()


@pytest.mark.once
def test_a_database_that_is_none_is_a_sentence(manage: Manage, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "evsys.sqlite3").write_bytes(b"no database" * 1000)
    done = manage(home, "backup", str(tmp_path / "x.tar"), check=False)
    assert done.returncode == 1 and "could not be written" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.django_db(transaction=True)
def test_on_postgresql_pg_dump_and_pg_restore_carry_everything_over(tmp_path: Path, alice: object) -> None:
    """As docs/operations.md has it. SQLite's turn is above."""
    if connection.vendor == "sqlite":
        assert connection.settings_dict["NAME"]
        return
    with pytest.raises(CommandError, match="pg_dump"):
        call_command("backup", str(tmp_path / "x.tar"))
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
    folder = found[-1].parent if found else Path(str(shutil.which("pg_dump"))).parent
    url = urlsplit(os.environ["DATABASE_URL"])
    name = connection.settings_dict["NAME"]
    source, target = (url._replace(path=f"/{database}").geturl() for database in (name, f"{name}_copy"))
    subprocess.run([folder / "pg_dump", "--format=custom", "--file", tmp_path / "dump", source], check=True, timeout=60)
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}_copy"')
    try:
        subprocess.run([folder / "pg_restore", "--no-owner", "--dbname", target, tmp_path / "dump"], check=True, timeout=60)
        counted = subprocess.run(
            [folder / "psql", target, "-Atc", "SELECT username FROM accounts_user"], capture_output=True, text=True, check=True
        )
        assert counted.stdout.split() == ["alice"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}_copy" WITH (FORCE)')
