"""A job is looked for in the account that it was ordered in, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.algorithms.managed_orders import JOB_FILE
from recipes.resources import ResourceLog
from tests.fireworks_server import ACCOUNT, FireworksServer, State
from tests.recipes.algorithms.managed import broken, job_config, server, train
from tests.recipes.runs_under_test import Killed, KilledAfter

__all__ = ["server"]

SLOW = [*[State("RUNNING", 1)] * 20, State("COMPLETED", 4)]


def begun(server: FireworksServer, folder: Path, **backend: object) -> None:
    """A worker dies while the job of its run is at work."""
    server.walk = SLOW
    with pytest.raises(Killed):
        train(server, folder, KilledAfter(1), config=job_config(server, backend=backend))


def test_the_account_is_written_down_before_anything_is_made_there(server: FireworksServer, tmp_path: Path) -> None:
    seen: list[str] = []

    def look_into_the_folder(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            seen.append(json.loads((tmp_path / JOB_FILE).read_text())["account"])
            seen.extend(resource.account for resource in ResourceLog(tmp_path).left())

    server.faults.append(look_into_the_folder)
    assert train(server, tmp_path).status == "completed"
    assert len(seen) > 3 and set(seen) == {ACCOUNT}


def test_a_key_of_another_account_orders_nothing(server: FireworksServer, tmp_path: Path) -> None:
    begun(server, tmp_path)
    server.accounts, before = ["other"], len(server.requests)
    result = train(server, tmp_path)
    assert result.status == "failed" and result.error is not None
    assert f"lies in the account {ACCOUNT}" in result.error and "leads to other now" in result.error
    assert "may still be at work" in result.error
    assert {request.method for request in server.requests[before:]} == {"GET"}
    server.accounts = [ACCOUNT]
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


def test_a_named_account_that_the_key_has_left_is_found_out_too(server: FireworksServer, tmp_path: Path) -> None:
    begun(server, tmp_path, account_id=ACCOUNT)
    server.accounts = ["other"]
    config = job_config(server, backend={"account_id": ACCOUNT})
    assert "leads to other now" in (train(server, tmp_path, config=config).error or "")


def test_a_key_that_may_not_list_accounts_still_works_in_the_named_one(server: FireworksServer, tmp_path: Path) -> None:
    begun(server, tmp_path, account_id=ACCOUNT)
    server.faults.append(broken("GET", "/v1/accounts$", status=403))
    config = job_config(server, backend={"account_id": ACCOUNT})
    assert train(server, tmp_path, config=config).status == "completed" and len(server.jobs) == 1


def test_a_key_that_has_come_to_see_more_accounts_finds_the_right_one(server: FireworksServer, tmp_path: Path) -> None:
    begun(server, tmp_path)
    server.accounts = ["other", ACCOUNT]
    assert train(server, tmp_path).status == "completed" and len(server.jobs) == 1


def test_a_job_that_somebody_deleted_there_is_not_ordered_again(server: FireworksServer, tmp_path: Path) -> None:
    begun(server, tmp_path)
    server.jobs.clear()
    result = train(server, tmp_path)
    assert "somebody deleted it there. Clone the run" in (result.error or "") and not server.jobs
    assert "may still be at work" not in (result.error or "")
