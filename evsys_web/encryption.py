"""Keeps keys for other servers unreadable at rest: Fernet (AES-128-CBC with HMAC-SHA256) under settings.CREDENTIAL_KEYS."""

from __future__ import annotations

import base64
import hashlib
import logging

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.utils.crypto import salted_hmac

from recipes.errors import ConfigError

SHORTEST_UNSAID, MOST_UNSAID = 8, 1_000
"""Shorter keys are left as they are: they might be words."""
_opened: dict[str, None] = {}


def seal(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises ConfigError when none of the keys made it."""
    try:
        secret = _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise ConfigError(
            "A stored credential cannot be opened: the key that sealed it is gone. Enter the credential anew, "
            "or give the former key in EVSYS_SECRET_KEYS as well."
        ) from None
    if len(secret) >= SHORTEST_UNSAID:
        _opened[secret] = None
        while len(_opened) > MOST_UNSAID:
            del _opened[next(iter(_opened))]
    return secret


def unsaid(text: str) -> str:
    """The text without any key that this process opened: a server that was sent one may say it aloud in what it refuses."""
    for secret in tuple(_opened):
        text = text.replace(secret, "[the key]")
    return text


class Unsaid(logging.Filter):
    """Keeps opened keys out of a handler's lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (kept := unsaid(said)) != said:
            record.msg, record.args = kept, None
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            if (kept := unsaid(trace)) != trace:
                record.exc_info, record.exc_text = None, kept
        return True


def digest(text: str) -> str:
    """64 letters that tell texts apart where none may be kept, under this server's key: nobody finds the text by trying words."""
    return salted_hmac("evsys_web.encryption.digest", text, algorithm="sha256").hexdigest()


def reseal(sealed: str) -> str:
    """The same text under the first key. Raises ConfigError when none of the keys made it."""
    return seal(unseal(sealed))


def veil(text: str) -> str:
    """For what is kept a day at most and may hold a secret that was shown once: under SECRET_KEY, which no rotation waits for."""
    return _veil().encrypt(text.encode()).decode()


def unveil(veiled: str) -> str | None:
    """None once SECRET_KEY is another one, and for what was never veiled."""
    try:
        return _veil().decrypt(veiled.encode()).decode()
    except (InvalidToken, ValueError):
        return None


def _veil() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(salted_hmac("evsys_web.encryption.veil", "", algorithm="sha256").digest()))


def _fernet() -> MultiFernet:
    """Keys are random text of any form; Fernet wants 32 bytes."""
    digests = (hashlib.sha256(key.encode()).digest() for key in settings.CREDENTIAL_KEYS)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
