"""`manage.py rotate_keys`: every stored credential under a new key; the former key opens nothing of the database afterwards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import Model

from evsys_web.accounts.models import BackendCredential
from evsys_web.encryption import reseal, unseal
from evsys_web.home.lock import HomeInUse, alone_in_home
from evsys_web.notifications.models import Channel
from recipes.errors import ConfigError

SEALED: list[tuple[type[Model], str]] = [(BackendCredential, "sealed"), (Channel, "sealed_secret")]
"""Every column that evsys_web/encryption.py writes, beside what is in the JSON of second factors."""
SEALED_IN_JSON = ("secret", "seed")


class Sealed(NamedTuple):
    """put: writes the text anew, unless somebody else did meanwhile; returns how many rows that were."""

    whose: str
    text: str
    put: Callable[[str], int]


def _all_sealed() -> Iterator[Sealed]:
    for model, column in SEALED:
        for pk, text in model._default_manager.exclude(**{column: ""}).values_list("pk", column):
            yield Sealed(f"{model._meta.verbose_name} {pk}", text, partial(_put, model, column, pk, text))
    for factor in Authenticator.objects.all():
        for name in set(SEALED_IN_JSON) & set(factor.data):
            yield Sealed(f"{factor.user}'s second factor", factor.data[name], partial(_put_in_json, factor.pk, name))


def _put(model: type[Model], column: str, pk: int, before: str, after: str) -> int:
    return model._default_manager.filter(pk=pk, **{column: before}).update(**{column: after})


def _put_in_json(pk: int, name: str, after: str) -> int:
    with transaction.atomic():
        factor = Authenticator.objects.select_for_update().filter(pk=pk).first()
        if factor is None:  # turned off meanwhile
            return 0
        factor.data[name] = after
        factor.save(update_fields=["data"])
    return 1


class Command(BaseCommand):
    help = (
        "Seal all stored credentials with a new key. With EVSYS_SECRET_KEYS: put the new key in front of the old one first. "
        "Without: a new key is made in EVSYS_HOME; stop the server first, since it knows the old one alone."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        file = settings.HOME / "credential_key"
        if settings.CREDENTIAL_KEYS_ARE_GIVEN:
            if len(settings.CREDENTIAL_KEYS) < 2:
                raise CommandError("EVSYS_SECRET_KEYS holds one key. Put a new one in front: EVSYS_SECRET_KEYS=new,old.")
            count = _reseal_all()
            _refuse_what_the_first_key_does_not_open()
            self.stdout.write(f"{count} sealed anew. Take the former keys out of EVSYS_SECRET_KEYS and start the server again.")
            return
        try:
            with alone_in_home(f"rotate_keys (process {os.getpid()})"):
                count = _rotate(file)
        except HomeInUse:
            raise CommandError("EvSys Web runs on this EVSYS_HOME. Stop it first.") from None
        self.stdout.write(f"{count} sealed anew under a new key in {file}. Start the server again.")


def _rotate(file: Path) -> int:
    """How many. The file holds both keys until the new one was seen to open everything."""
    if file.exists() and file.read_text().strip() != ",".join(settings.CREDENTIAL_KEYS):
        raise CommandError(f"{file} changed since this command began to read it. Try again.")  # another rotation was quicker
    settings.CREDENTIAL_KEYS = [secrets.token_urlsafe(50), *settings.CREDENTIAL_KEYS]
    _write(file, settings.CREDENTIAL_KEYS)
    count = _reseal_all()
    _refuse_what_the_first_key_does_not_open()
    settings.CREDENTIAL_KEYS = settings.CREDENTIAL_KEYS[:1]
    _write(file, settings.CREDENTIAL_KEYS)
    return count


def _refuse_what_the_first_key_does_not_open() -> None:
    """Somebody may have stored a credential meanwhile who knew the former key alone."""
    keys = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = keys[:1]
    try:
        for sealed in _all_sealed():
            try:
                unseal(sealed.text)
            except ConfigError:
                raise CommandError(
                    f"{sealed.whose} was stored meanwhile under a former key. All keys are kept: "
                    "stop whatever else uses this database, and run this again."
                ) from None
    finally:
        settings.CREDENTIAL_KEYS = keys


def _reseal_all() -> int:
    """How many. Raises CommandError, with everything still to be opened, for one that no key opens."""
    count = 0
    for sealed in _all_sealed():
        try:
            anew = reseal(sealed.text)
        except ConfigError as error:
            raise CommandError(f"{sealed.whose}: {error}") from None
        count += sealed.put(anew)
    return count


def _write(file: Path, keys: list[str]) -> None:
    """Whole or not at all, and readable by the owner alone from the first byte."""
    partial = file.with_name(f"{file.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(",".join(keys))
        written.flush()
        os.fsync(written.fileno())
    partial.replace(file)
