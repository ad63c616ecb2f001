"""A full disk ends a run with a sentence; when there is room again it goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.runs import metrics
from evsys_web.runs.actions import launch_run, resume_run
from evsys_web.runs.models import Status
from recipes.backends.mock import MockBackend
from recipes.config import RunConfig

ROW = '{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}\n'
FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.fault(
    "The disk is full when a checkpoint is written",
    "Failed, with what to do; resumed when there is room, no step lost or doubled.",
)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", FULL, ids=["disk", "quota", "library"])
def test_a_full_disk_is_said_and_the_run_resumes_when_there_is_room(
    alice: User,
    project: Project,
    settings: Settings,
    tmp_path: Path,
    eager_tasks: None,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    settings.RUNS_DIR = tmp_path / "runs"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROW * 8)
    version = import_dataset(user=alice, project=project, name="sums", path=rows).version
    values = {"max_steps": 9, "save_every": 3}
    config = RunConfig.from_values(
        {"name": "sums", "model": {"name": "starter"}, "data": {"dataset": "sums@1"}, "backend": {"kind": "mock"}}
        | {"algorithm": {"kind": "mock_sft", "params": values}}
    )
    save, count = MockBackend.save_full_state, [0]

    async def full(self: MockBackend, *args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] >= 2:
            raise error
        return await save(self, *args, **options)

    monkeypatch.setattr(MockBackend, "save_full_state", full)
    run = launch_run(user=alice, project=project, config=config, dataset_version=version)
    run.refresh_from_db()
    assert (run.status, run.error_type) == (Status.FAILED, "DiskFull"), run.error_detail
    assert "Free some space" in run.error and run.error_detail == ""
    monkeypatch.setattr(MockBackend, "save_full_state", save)
    resume_run(user=alice, run=run)
    run.refresh_from_db()
    assert (run.status, run.step) == (Status.COMPLETED, 9), run.error
    assert [row.step for row in metrics.rows(run)] == list(range(1, 10))


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("no space in this name")])
def test_other_errors_are_no_full_disk(error: Exception) -> None:
    from evsys_web.outages import is_full_disk

    assert not is_full_disk(error)
