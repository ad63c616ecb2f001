"""Dockerfile and compose.yaml, as far as they can be read without a container engine. What stands in them is run by
tests/evsys_web/home/test_containers.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service.get("image") == "evsys"}


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_compose_follows_the_specification() -> None:
    compose_spec.ComposeSpecification.model_validate(COMPOSE)


@pytest.mark.parametrize(("key", "value"), [("restart", ["no"]), ("ports", "8000"), ("depends_on", 5)])
def test_the_specification_refuses_what_is_wrong(key: str, value: Any) -> None:
    wrong = COMPOSE | {"services": {"web": {**OURS["web"], key: value}}}
    with pytest.raises(ValueError):
        compose_spec.ComposeSpecification.model_validate(wrong)


def test_every_variable_that_it_sets_is_one_that_is_read() -> None:
    table = set(re.findall(r"^\| ([A-Z_0-9]+) \|", (ROOT / "evsys_web/settings.py").read_text(), re.MULTILINE))
    for name, service in OURS.items():
        assert set(service["environment"]) <= table, name


def test_every_other_variable_reaches_all_that_read_it() -> None:
    """S3's keys, the provider of single sign-on, days to keep, a collector: said once, in .env. What `environment` names would
    win over it, and so asks it first."""
    for service in OURS.values():
        for variable, value in service["environment"].items():
            assert re.fullmatch(rf"\$\{{{variable}:[-?].*\}}", value), f"{variable} in .env would reach nobody"
    assert {json.dumps(service["env_file"]) for service in OURS.values()} == {'[{"path": ".env", "required": false}]'}
    image = set(re.findall(r"^(?:ENV |    )([A-Z_]+)=", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert {"EVSYS_HOME", "LOG_FORMAT"} <= image


def test_no_password_stands_in_it_and_nothing_but_the_pages_is_reachable() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name in ("POSTGRES_PASSWORD", "SECRET_KEY", "EVSYS_SECRET_KEYS"):
        assert f"${{{name}:?" in text, f"{name} has no default"
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"]


def test_no_visitor_may_say_which_address_they_come_from() -> None:
    assert {service["environment"]["FORWARDED_ALLOW_IPS"] for service in OURS.values()} == {"${FORWARDED_ALLOW_IPS:-127.0.0.1}"}


def test_every_queue_has_a_reader() -> None:
    from django.conf import settings

    read = {queue for service in OURS.values() for queue in queues_of(service.get("command", []))}
    assert {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()} | {"default"} <= read


def queues_of(command: list[str]) -> list[str]:
    return command[command.index("-Q") + 1].split(",") if "-Q" in command else []


def test_the_image_holds_all_that_is_imported_and_nothing_of_the_workplace() -> None:
    copied = set(re.findall(r"^COPY (\S+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert copied == {"recipes", "evsys_web", "templates", "static"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*" and not any("tests" in line or "var" in line for line in ignored)
