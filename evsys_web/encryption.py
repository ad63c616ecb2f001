"""Keeps keys for other servers unreadable at rest: Fernet (AES-128-CBC with HMAC-SHA256) under settings.CREDENTIAL_KEYS."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from recipes.errors import ConfigError


def seal(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises ConfigError when none of the keys made it."""
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise ConfigError(
            "A stored credential cannot be opened: the key that sealed it is gone. Enter the credential anew, "
            "or give the former key in EVSYS_SECRET_KEYS as well."
        ) from None


def reseal(sealed: str) -> str:
    """The same text under the first key. Raises ConfigError when none of the keys made it."""
    return seal(unseal(sealed))


def _fernet() -> MultiFernet:
    """Keys are random text of any form; Fernet wants 32 bytes."""
    digests = (hashlib.sha256(key.encode()).digest() for key in settings.CREDENTIAL_KEYS)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
