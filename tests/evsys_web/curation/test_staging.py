"""The sources of rows are written under a draft, in short transactions; nobody sees anything before all of it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client
from django.utils.timezone import now

from evsys_web.accounts.models import Project, User
from evsys_web.curation import actions
from evsys_web.curation.actions import Published, publish
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.datasets import publishing
from evsys_web.datasets.actions import delete_dataset, import_starter_rows
from evsys_web.datasets.models import Dataset, DatasetVersion, VersionStatus
from evsys_web.evals.models import EvalRun
from recipes.curation import CurationSettings
from recipes.errors import DataError

BAND_FILTER = CurationSettings(filter="0 < avg < 1")
NUM_ROWS = 4


def band(run: EvalRun, user: User, name: str = "staged") -> Published:
    return publish(user=user, project=run.project, eval_runs=[run], settings=BAND_FILTER, name=name)


def stored_files() -> set[Path]:
    return {path for path in (Path(django_settings.HOME) / "files").rglob("*") if path.is_file()}


@pytest.fixture
def after_staging(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[DatasetVersion], None]], None]:
    """Does something once all sources are written and before the version is there."""

    def arrange(act: Callable[[DatasetVersion], None]) -> None:
        stage = actions._Publication.stage

        def staged(publication: actions._Publication, draft: DatasetVersion) -> None:
            stage(publication, draft)
            monkeypatch.setattr(actions._Publication, "stage", stage)
            act(draft)

        monkeypatch.setattr(actions._Publication, "stage", staged)

    return arrange


AfterStaging = Callable[[Callable[[DatasetVersion], None]], None]


@pytest.mark.django_db(transaction=True)
def test_other_writers_come_between_the_sources_and_readers_see_no_draft(
    run: EvalRun, alice: User, client: Client, monkeypatch: pytest.MonkeyPatch, after_staging: AfterStaging
) -> None:
    monkeypatch.setattr(actions, "ROWS_PER_INSERT", 1)
    insert = actions._insert
    seen: list[tuple[bool, int]] = []

    def watched(version: DatasetVersion, rows: Sequence[tuple[Any, ...]]) -> None:
        seen.append((connection.in_atomic_block, len(rows)))
        insert(version, rows)

    monkeypatch.setattr(actions, "_insert", watched)
    client.force_login(alice)

    def look(draft: DatasetVersion) -> None:
        assert CuratedRow.objects.filter(version=draft).count() == NUM_ROWS
        assert client.get(f"/datasets/{draft.pk}/").status_code == 404
        assert client.get(f"/datasets/{draft.pk}/download/").status_code == 404
        assert f"{draft.dataset.name}@{draft.number}" not in client.get("/datasets/").content.decode()
        assert not DatasetVersion.objects.ready().exists() and not Curation.objects.exists()

    after_staging(look)
    published = band(run, alice)
    assert seen == [(False, 1)] * NUM_ROWS
    assert published.version.status == VersionStatus.READY and published.created
    assert client.get(published.version.get_absolute_url()).status_code == 200


def test_what_a_killed_publication_left_is_swept_a_day_later(
    run: EvalRun, alice: User, project: Project, monkeypatch: pytest.MonkeyPatch, after_staging: AfterStaging
) -> None:
    import_starter_rows(project, alice)
    files = stored_files()

    def killed(draft: DatasetVersion) -> None:
        raise SystemExit

    after_staging(killed)
    with monkeypatch.context() as dead, pytest.raises(SystemExit):
        dead.setattr(publishing, "_discard", lambda *what: None)  # nothing runs any more in a process that was killed
        dead.setattr(publishing, "delete_files", lambda *what: None)
        band(run, alice)
    left = DatasetVersion.objects.filter(status=VersionStatus.DRAFT)
    assert left.count() == 1 and CuratedRow.objects.exists() and stored_files() > files

    import_starter_rows(project, alice)
    assert left.count() == 1, "it may still be at work"
    left.update(created_at=now() - publishing.STAGED_FOR - timedelta(minutes=1))
    import_starter_rows(project, alice)
    assert not left.exists() and not CuratedRow.objects.exists() and stored_files() == files
    assert band(run, alice).created, "as if nothing had been"


def test_a_dataset_that_is_deleted_meanwhile_is_said_and_leaves_nothing(
    run: EvalRun, alice: User, after_staging: AfterStaging
) -> None:
    files = stored_files()
    after_staging(lambda draft: delete_dataset(user=alice, dataset=draft.dataset))
    with pytest.raises(DataError, match="deleted meanwhile"):
        band(run, alice)
    assert not Dataset.objects.exists() and not CuratedRow.objects.exists() and stored_files() == files


def test_of_two_that_publish_the_same_at_once_one_makes_the_version(
    run: EvalRun, alice: User, after_staging: AfterStaging
) -> None:
    faster: list[Published] = []
    after_staging(lambda draft: faster.append(band(run, alice)))
    slower = band(run, alice)
    assert faster[0].created and not slower.created
    assert (slower.version, slower.curation) == (faster[0].version, faster[0].curation)
    assert DatasetVersion.objects.count() == 1 and CuratedRow.objects.count() == NUM_ROWS
