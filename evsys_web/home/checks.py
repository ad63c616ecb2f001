"""System checks: settings that can be read but are wrong or unsafe, each with an id and what to do. An error stops a command."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from evsys_web import tracing
from evsys_web.addresses import is_loopback

SHORTEST_SECRET_KEY = 32
BROKER_MODULES = {"filesystem": None, "memory": None, "redis": "redis", "rediss": "redis", "amqp": "amqp", "amqps": "amqp"}

Apps = Sequence[AppConfig] | None


@register(Tags.files)
def home_is_writable(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    folders = [settings.HOME, settings.RUNS_DIR, settings.FILE_UPLOAD_TEMP_DIR]
    return [
        Error(
            f"{folder} is not writable by this user.",
            hint="Change its owner, or set EVSYS_HOME to another folder.",
            id="evsys.E001",
        )
        for folder in folders
        if not os.access(folder, os.W_OK | os.X_OK)
    ]


@register(Tags.security)
def secret_key_is_secret(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if len(settings.SECRET_KEY) < SHORTEST_SECRET_KEY or len(set(settings.SECRET_KEY)) < 5:
        hint = f"Give at least {SHORTEST_SECRET_KEY} random characters, or unset SECRET_KEY and one is made in EVSYS_HOME."
        messages.append(Error("SECRET_KEY is too short; sessions could be forged.", hint=hint, id="evsys.E002"))
    file = settings.HOME / "secret_key"
    if file.exists() and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        messages.append(Warning(f"Others on this machine may read {file}.", hint=f"chmod 600 {file}", id="evsys.W001"))
    return messages


@register(Tags.security)
def reachable_means_hardened(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """Whoever lets others in needs DEBUG off, names to be reached by, and TLS."""
    foreign = [name for name in settings.ALLOWED_HOSTS if not is_loopback(name)]
    open_to_others = not is_loopback(settings.HOST)
    messages: list[CheckMessage] = []
    if settings.DEBUG and (open_to_others or foreign):
        where = settings.HOST if open_to_others else ", ".join(foreign)
        hint = "Unset DEBUG: its error pages show settings and source to every visitor."
        messages.append(Error(f"DEBUG is on while others can reach {where}.", hint=hint, id="evsys.E003"))
    if open_to_others and not foreign:
        hint = "Set ALLOWED_HOSTS to the names that people type, comma-separated."
        messages.append(
            Warning(f"EVSYS_HOST is {settings.HOST}, but ALLOWED_HOSTS admits only this machine.", hint=hint, id="evsys.W002")
        )
    if "*" in settings.ALLOWED_HOSTS:
        hint = "Name the hosts; a wildcard lets an attacker choose the address in links."
        messages.append(Warning("ALLOWED_HOSTS admits every name.", hint=hint, id="evsys.W003"))
    if open_to_others and not settings.HTTPS:
        hint = "Put a TLS proxy in front and set EVSYS_HTTPS=1."
        messages.append(Warning(f"Passwords travel unencrypted to {settings.HOST}.", hint=hint, id="evsys.W004"))
    return messages


@register()
def broker_is_known(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    scheme = settings.CELERY_BROKER_URL.partition(":")[0].partition("+")[0]
    if scheme not in BROKER_MODULES:
        hint = "Use redis://host:6379/0, or unset it for the broker that needs no server."
        return [Error(f"CELERY_BROKER_URL names an unknown broker {scheme!r}.", hint=hint, id="evsys.E004")]
    module = BROKER_MODULES[scheme]
    if module and find_spec(module) is None:
        hint = f"pip install {module}"
        return [Error(f"CELERY_BROKER_URL names {scheme}, whose Python package is missing.", hint=hint, id="evsys.E005")]
    return []


@register()
def storage_is_installed(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    module = settings.STORAGES["default"]["BACKEND"].partition(".")[0]
    if module == "storages" and (find_spec("storages") is None or find_spec("boto3") is None):
        hint = "pip install -r requirements-s3.txt, or unset EVSYS_STORAGE_URL to keep uploads in EVSYS_HOME."
        return [Error("EVSYS_STORAGE_URL names S3, whose Python packages are missing.", hint=hint, id="evsys.E006")]
    return []


@register()
def tracing_is_installed(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    if settings.TRACES_ENDPOINT and not tracing.is_installed():
        hint = "pip install -r requirements-tracing.txt, or unset the variable."
        return [Warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced.", hint=hint, id="evsys.W005")]
    return []
