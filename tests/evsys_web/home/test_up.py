"""What `manage.py up` says before anything is started; starting itself is tests/evsys_web/test_survival.py and tests/browser."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError
from django.db import OperationalError
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import Benchmark
from evsys_web.home.management.commands import up


@pytest.fixture
def command(settings: Settings, tmp_path: Path) -> up.Command:
    settings.HOME = tmp_path
    return up.Command(stdout=io.StringIO())


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def said(command: up.Command) -> str:
    return command.stdout.getvalue()


def test_a_taken_port_names_a_free_one(busy_port: int) -> None:
    with pytest.raises(
        CommandError, match=rf"Port {busy_port} is taken by another program\. Try: PORT=\d+ python3 manage\.py up"
    ) as caught:
        up.refuse_a_busy_port("127.0.0.1", busy_port)
    free = int(str(caught.value).partition("PORT=")[2].split()[0])
    up.refuse_a_busy_port("127.0.0.1", free)


def test_a_foreign_address_is_refused_in_words() -> None:
    with pytest.raises(CommandError, match=r"EVSYS_HOST 192\.0\.2\.1 is no address of this machine"):
        up.refuse_a_busy_port("192.0.2.1", 0)


def test_a_second_start_says_where_the_first_one_is(command: up.Command, settings: Settings) -> None:
    settings.PORT = 8765
    sentence = r"already runs on .*: http://127\.0\.0\.1:8765/ \(process \d+\)"
    with command.only_one(), pytest.raises(CommandError, match=sentence), command.only_one():
        pass
    with command.only_one():
        pass  # free again


@pytest.mark.django_db
def test_the_password_is_printed_at_the_first_start_alone(command: up.Command) -> None:
    command.prepare()
    password = said(command).partition("Password")[2].split()[0]
    admin = User.objects.get(username="admin")
    assert admin.check_password(password)
    assert DatasetVersion.objects.visible_to(admin).count() == 2
    assert [benchmark.name for benchmark in Benchmark.objects.visible_to(admin)] == ["Starter sums"]
    command.stdout.truncate(0)
    command.prepare()
    assert "Password" not in said(command)
    assert User.objects.count() == 1


def test_a_silent_database_is_a_sentence(command: up.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OperationalError("connection refused\nIs the server running?")

    monkeypatch.setattr(up, "call_command", refuse)
    with pytest.raises(CommandError, match=r"look at DATABASE_URL\. It said: connection refused$"):
        command.prepare()


def test_readiness_is_said_once_and_lateness_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences: list[str] = []
    answers = iter(["starting", "starting", "ready"])
    monkeypatch.setattr(up, "ask_readiness", lambda: next(answers))
    readiness = up.Readiness(sentences.append)
    readiness.began -= up.PATIENCE_SECONDS + 1
    for _ in range(5):
        readiness()
    assert len(sentences) == 2
    assert "Not ready after 60 s: starting" in sentences[0]
    assert "is ready at http://127.0.0.1:" in sentences[1]


def test_nobody_at_the_door_is_no_traceback(settings: Settings) -> None:
    settings.HOST, settings.PORT = "127.0.0.1", 9
    assert "do not answer" in up.ask_readiness()


def test_the_pages_do_not_believe_proxy_headers_without_a_proxy(settings: Settings) -> None:
    assert "--no-proxy-headers" in up.children()[0].command
    settings.FORWARDED_ALLOW_IPS = "192.0.2.1"
    assert " --forwarded-allow-ips 192.0.2.1 " in " ".join(up.children()[0].command)
    settings.HTTPS = True
    assert "--proxy-headers" in up.children()[0].command
