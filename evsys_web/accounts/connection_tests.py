"""Tries a stored key where it is meant for: what page and REST call "test connection". `recipes/probes.py` asks.

It is waited for in the request, which takes some seconds, in a thread that Django has for this request alone. So few are under
way at a time in a web process, few are begun in a minute by one person, and none holds a connection to the database meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import connection, transaction
from django.utils.timezone import now

from evsys_web.accounts.actions import checked_base_url, reveal_credential
from evsys_web.accounts.audit import record
from evsys_web.accounts.models import BackendCredential, CredentialKind, User
from evsys_web.accounts.permissions import require_editor
from evsys_web.addresses import allowed_kinds
from evsys_web.encryption import unsaid
from evsys_web.rates import TooOften, count
from recipes.errors import ConfigError
from recipes.probes import Finding, KeyKind, probe

_lock = threading.Lock()
_num_at_work = 0


def try_connection(
    *, user: User, credential: BackendCredential, kind: str | None = None, base_url: str | None = None
) -> BackendCredential:
    """The credential with what was found. kind, base_url: None for what was stored or said last; they are kept with the answer.
    Raises PermissionDenied, ConfigError, TooOften."""
    require_editor(user, credential.project)
    kind = kind or credential.kind
    address = checked_base_url(kind, credential.base_url if base_url is None else base_url)
    if kind == CredentialKind.OPENAI and not address:
        raise ConfigError("Say where: a server that speaks like OpenAI has no address of its own.", path=("base_url",))
    with turn(user):
        key = reveal_credential(project=credential.project, name=credential.name)
        if not connection.in_atomic_block:
            connection.close()
        found = probe(KeyKind(kind), key=key, address=address or None, allowed=allowed_kinds())
    values = {"kind": kind, "base_url": address, "tested_at": now()}
    values |= {"test_outcome": found.outcome.value, "test_sentence": unsaid(found.sentence)[:500]}
    with transaction.atomic():
        # A key that took its place meanwhile is another one, of which nothing is known.
        BackendCredential.objects.filter(pk=credential.pk, sealed=credential.sealed).update(**values)
        told = {"kind": kind, "base_url": address, "test_outcome": found.outcome.value}
        record(user, "tested", credential, after=told)
    credential.refresh_from_db()
    return credential


def try_storage(*, user: User, address: str) -> Finding:
    """Writes to and removes from the bucket that uploads go to, s3://name/prefix, with the operator's keys. Raises TooOften."""
    with turn(user):
        if not connection.in_atomic_block:
            connection.close()
        return probe(KeyKind.S3, key="", address=address, allowed=allowed_kinds())


@contextmanager
def turn(user: User) -> Iterator[None]:
    """Around what a request waits for while a service is asked. Raises TooOften."""
    global _num_at_work
    limit = settings.CONNECTION_TESTS_A_MINUTE
    rate = count(f"connection-tests:{user.pk}", limit=limit)
    if rate is not None and not rate.is_kept:
        raise TooOften(f"You may test {limit} times a minute. Try again in {rate.reset} s.", seconds=rate.reset)
    with _lock:
        if _num_at_work >= settings.CONNECTION_TESTS_AT_ONCE:
            raise TooOften("Other keys are being tested at this moment. Try again in some seconds.", seconds=10)
        _num_at_work += 1
    try:
        yield
    finally:
        with _lock:
            _num_at_work -= 1
