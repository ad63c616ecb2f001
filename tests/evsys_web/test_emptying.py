"""What one test committed, no other finds."""

from __future__ import annotations

import pytest
from django.test import Client, TransactionTestCase

from evsys_web.accounts.models import Project
from evsys_web.datasets.models import DatasetVersion
from tests.emptying import KEPT, empty_tables, with_rows
from tests.evsys_web.runs.conftest import version as version


@pytest.mark.django_db(transaction=True)
def test_no_row_of_a_test_is_left_for_the_next_one(alice_client: Client, project: Project, version: DatasetVersion) -> None:
    assert {"accounts_user", "accounts_project", "datasets_datasetversion", "django_session"} <= with_rows()
    empty_tables(TransactionTestCase())
    assert with_rows() == KEPT
