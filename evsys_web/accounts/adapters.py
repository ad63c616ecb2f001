"""How django-allauth behaves here: it brings no messages and no pages of its own, believes uvicorn about addresses, and seals
what it stores. Who may come in by single sign-on stands in `oidc.py`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from evsys_web.accounts.models import User
from evsys_web.accounts.origin import origin
from evsys_web.encryption import seal, unseal

BACKEND = "django.contrib.auth.backends.ModelBackend"
WRONG_CODE = "That is not the code of this moment. Wait for the next one; is the clock of your telephone right?"
NOWHERE = "0.0.0.0"  # nosec B104 # said of a visitor whose address nobody knows


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def login(self, request: HttpRequest, user: User) -> None:
        request.session.set_expiry(None)  # what a stranger began may have been meant to end sooner
        login(request, user, backend=BACKEND)

    def add_message(self, *_: Any, **__: Any) -> None:
        """Our views say what happened."""

    def get_client_ip(self, request: HttpRequest) -> str:
        return origin().address or NOWHERE

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        reason = "This account is blocked. Ask an administrator of this server."
        return render(request, "accounts/refused.html", {"reason": reason}, status=403)


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    error_messages = DefaultMFAAdapter.error_messages | {"incorrect_code": WRONG_CODE}

    def encrypt(self, text: str) -> str:
        return seal(text)

    def decrypt(self, encrypted_text: str) -> str:
        """Raises ConfigError when the key is gone."""
        return unseal(encrypted_text)

    def get_totp_label(self, user: User) -> str:
        return user.get_username()

    def get_totp_issuer(self) -> str:
        """What an authenticator app shows above the code; a colon would end it."""
        return f"EvSys {urlsplit(settings.URL).hostname or ''}".replace(":", " ").strip()
