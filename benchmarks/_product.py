"""The product on a throw-away home, for benchmarks that need its database."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from evsys_web.accounts.models import User
    from evsys_web.runs.models import TrainingRun

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Product(NamedTuple):
    home: Path
    user: User


@contextmanager
def throwaway_product(database: str = "") -> Iterator[Product]:
    """Settings, tables and one user in a fresh folder; all is removed at the end. Once per process. database: the address of an
    empty one to use instead of SQLite in that folder; what was written there stays."""
    home = Path(tempfile.mkdtemp(prefix="evsys-benchmark-"))
    os.environ |= {"EVSYS_HOME": str(home), "DJANGO_SETTINGS_MODULE": "evsys_web.settings", "LOG_LEVEL": "ERROR"}
    os.environ.pop("DATABASE_URL", None)
    if database:
        os.environ["DATABASE_URL"] = database
    try:
        open_product()
        from django.core.management import call_command

        from evsys_web.accounts.models import User

        call_command("migrate", verbosity=0)
        yield Product(home, User.objects.create_user("benchmark"))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def open_product() -> None:
    """For a second process on the same home."""
    import django

    django.setup()


def held_run(user: User) -> TrainingRun:
    """A run that this process trains."""
    from evsys_web.runs.models import Status, TrainingRun

    run: TrainingRun = TrainingRun.objects.create(project=user.default_project(), created_by=user, status=Status.QUEUED)
    assert run.start("benchmark")
    return run


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
