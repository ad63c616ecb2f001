from __future__ import annotations

from pathlib import Path

import pytest
from django.core.checks import run_checks
from pytest_django.fixtures import Settings

from evsys_web.home import checks
from evsys_web.home.checks import is_loopback


def ids() -> set[str]:
    return {message.id for message in run_checks() if message.id and message.id.startswith("evsys.")}


def test_the_defaults_have_nothing_to_complain_about() -> None:
    assert ids() == set()


def test_a_home_that_cannot_be_written_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evsys_web.home.checks.os.access", lambda path, mode: path != settings.RUNS_DIR)
    assert ids() == {"evsys.E001"}


@pytest.mark.parametrize("key", ["short", "a" * 60, "x" * 31])
def test_a_guessable_secret_key_is_an_error(settings: Settings, key: str) -> None:
    settings.SECRET_KEY = key
    assert ids() == {"evsys.E002"}


def test_a_key_file_that_others_may_read_is_warned_about(settings: Settings, tmp_path: Path) -> None:
    settings.HOME = tmp_path
    file = tmp_path / "secret_key"
    file.write_text("k" * 50)
    file.chmod(0o644)
    assert "evsys.W001" in ids()
    file.chmod(0o600)
    assert "evsys.W001" not in ids()


def test_debug_on_a_reachable_address_is_an_error(settings: Settings) -> None:
    settings.DEBUG, settings.HOST, settings.HTTPS = True, "0.0.0.0", True
    settings.ALLOWED_HOSTS = ["dashboard.example.org"]
    assert ids() == {"evsys.E003"}


def test_debug_behind_a_foreign_name_is_an_error_even_on_loopback(settings: Settings) -> None:
    settings.DEBUG, settings.ALLOWED_HOSTS = True, ["dashboard.example.org"]
    assert ids() == {"evsys.E003"}


def test_debug_at_home_is_fine(settings: Settings) -> None:
    settings.DEBUG = True
    assert ids() == set()


def test_a_reachable_address_without_a_name_or_tls_is_warned_about(settings: Settings) -> None:
    settings.HOST = "0.0.0.0"
    assert ids() == {"evsys.W002", "evsys.W004"}


def test_a_wildcard_host_is_warned_about(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert ids() == {"evsys.W003"}


@pytest.mark.parametrize("url", ["sqs://", "reddis://localhost", "localhost:6379"])
def test_an_unknown_broker_is_an_error(settings: Settings, url: str) -> None:
    settings.CELERY_BROKER_URL = url
    assert ids() == {"evsys.E004"}


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://h:6380/1", "redis+socket:///run/redis.sock", "filesystem://"])
def test_a_known_broker_is_fine(settings: Settings, url: str) -> None:
    settings.CELERY_BROKER_URL = url
    assert ids() == set()


def test_a_broker_without_its_package_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "redis" else object())
    settings.CELERY_BROKER_URL = "redis://localhost"
    assert ids() == {"evsys.E005"}


def test_s3_without_its_packages_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "boto3" else object())
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": "storages.backends.s3.S3Storage"}}
    assert ids() == {"evsys.E006"}


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "::1", "evsys.localhost"])
def test_this_machine_is_loopback(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["0.0.0.0", "::", "*", "192.168.1.5", "localhost.example.org", ""])
def test_everything_else_is_reachable(name: str) -> None:
    assert not is_loopback(name)
