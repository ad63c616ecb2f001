from __future__ import annotations

import pytest
from pytest_django import Settings


@pytest.fixture
def api_that_fails(settings: Settings) -> None:
    """The operations of `urls.py` beside this file instead of the product's."""
    settings.ROOT_URLCONF = "tests.evsys_web.api.urls"
