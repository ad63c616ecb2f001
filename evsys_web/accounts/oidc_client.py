"""allauth's OpenID Connect client, and what it calls of ours once the provider has spoken.

The provider is the operator's own choice and trusted: it is called without the checks that addresses of users pass. Its ID token
must be signed by it, name us, and speak of the same person as its user info; a sign-in is bound to the browser that began it by
state and PKCE, which is why there is no nonce.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.internal import jwtkit
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from allauth.socialaccount.providers.base.constants import AuthError, AuthProcess
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from allauth.utils import build_absolute_uri
from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from requests import RequestException

from evsys_web.accounts.audit import record
from evsys_web.accounts.models import User
from evsys_web.accounts.oidc import Refused, admit, configured, identity_of
from evsys_web.encryption import unsaid

logger = logging.getLogger(__name__)

STALE = "This sign-in was begun in another browser, or too long ago. Begin again."
AT_ONCE = "Somebody else's sign-in came between at that very moment. Begin again."
AWAY = "{name} does not answer, or answers with an error. Try again in a moment, or sign in with your password."
UNPROVEN = (
    "What {name} answered does not prove who you are, so nobody was signed in. Whoever runs this server finds more in its log."
)
BROKEN_OFF = "{name} says that you broke off. Nobody was signed in."
REFUSING = "{name} refused the sign-in{code}. Whoever runs this server, or {name}, can say why."


class OidcClient(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:
        url: str = build_absolute_uri(request, reverse("accounts:sso-callback"))
        return url

    def _decode_id_token(self, app: SocialApp, id_token: str) -> dict[str, Any]:
        """allauth trusts the connection that it came over; we check the signature as well."""
        claims: dict[str, Any] = jwtkit.verify_and_decode(
            credential=id_token,
            keys_url=self.openid_config["jwks_uri"],
            issuer=self.openid_config["issuer"],
            audience=app.client_id,
            lookup_kid=jwtkit.lookup_kid_jwk,
        )
        return claims

    def complete_login(self, request: HttpRequest, app: SocialApp, token: Any, **kwargs: Any) -> SocialLogin:
        """Raises OAuth2Error when the two answers speak of two people, or nothing was signed."""
        if self.openid_config["issuer"].rstrip("/") != configured().issuer:
            raise OAuth2Error(f"the issuer calls itself {self.openid_config['issuer']!r}")
        login = super().complete_login(request, app, token, **kwargs)
        claims = login.account.extra_data
        if "id_token" not in claims or claims["id_token"].get("sub") != login.account.uid:
            raise OAuth2Error("the ID token is missing, or is of somebody else than the user info")
        return login


class OidcAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def list_apps(self, request: HttpRequest, provider: str | None = None, client_id: str | None = None) -> list[SocialApp]:
        """From the settings alone: nobody adds a provider by writing to a table."""
        apps = [
            SocialApp(provider="openid_connect", **each) for each in settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"]
        ]
        return [app for app in apps if provider in (None, "openid_connect", app.provider_id)]

    def get_connect_redirect_url(self, request: HttpRequest, socialaccount: SocialAccount) -> str:
        return reverse("accounts:profile")

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Raises ImmediateHttpResponse for whoever is not let in, and when an account was connected; else the sign-in goes on."""
        try:
            if sociallogin.state.get("process") == AuthProcess.CONNECT:
                _connect(request, sociallogin)
                raise ImmediateHttpResponse(HttpResponseRedirect(reverse("accounts:profile")))
            if not sociallogin.is_existing:
                _welcome(request, sociallogin)
        except Refused as refusal:
            raise ImmediateHttpResponse(refused(request, str(refusal), status=403)) from None

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: Any = None,
        exception: Exception | None = None,
        extra_context: Any = None,
    ) -> None:
        raise ImmediateHttpResponse(failed(request, error=error, exception=exception))


def refused(request: HttpRequest, reason: str, *, status: int) -> HttpResponse:
    return render(request, "accounts/refused.html", {"reason": reason}, status=status)


def failed(request: HttpRequest, *, error: Any = None, exception: Exception | None = None) -> HttpResponse:
    """What went wrong between the provider and us, in a sentence; the log says the rest."""
    name = configured().name
    if exception is not None:
        logger.warning("single sign-on failed: %s: %s", type(exception).__name__, unsaid(str(exception))[:500])
        is_away = isinstance(exception, RequestException)
        return refused(request, (AWAY if is_away else UNPROVEN).format(name=name), status=502)
    if error == AuthError.CANCELLED:
        return refused(request, BROKEN_OFF.format(name=name), status=403)
    code = request.GET.get("error", "")
    if not code:
        return refused(request, STALE, status=400)
    logger.warning("single sign-on failed: the provider says %r", code[:100])
    said = f" ({code})" if re.fullmatch(r"[a-z_]{1,40}", code) else ""
    return refused(request, REFUSING.format(name=name, code=said), status=502)


def _welcome(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """A new account, in one transaction with its tie to the provider; or what another tab of theirs made of it meanwhile. Raises
    Refused."""
    identity = identity_of(sociallogin.account.extra_data)
    try:
        with transaction.atomic():
            admitted = admit(identity, wanted=sociallogin.state.get("next") or "/")
            _tie(request, sociallogin, admitted.user)
    except (IntegrityError, Refused) as problem:
        if not _is_tied_by_now(sociallogin):
            raise Refused(AT_ONCE) if isinstance(problem, IntegrityError) else problem from None
        return
    if admitted.num_projects:
        sociallogin.state["next"] = reverse("home:dashboard")  # the invitation is used up


def _tie(request: HttpRequest, sociallogin: SocialLogin, user: User) -> None:
    """Raises IntegrityError when that identity has an account already."""
    sociallogin.connect(request, user)
    record(user, "connected single sign-on with", user, after={"identity": sociallogin.account.uid})


def _is_tied_by_now(sociallogin: SocialLogin) -> bool:
    """It was not, when this sign-in began."""
    sociallogin.user = User()  # what was made of it is rolled back
    sociallogin.account.pk = None
    sociallogin.lookup()
    return bool(sociallogin.is_existing)


def _connect(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Raises Refused."""
    user, name = request.user, configured().name
    if not isinstance(user, User) or (sociallogin.state.get("data") or {}).get("user") != user.pk:
        raise Refused(STALE)
    if sociallogin.is_existing and sociallogin.user != user:
        raise Refused(f"That identity at {name} is connected with another account of this server.")
    if not sociallogin.is_existing:
        if SocialAccount.objects.filter(user=user, provider=sociallogin.account.provider).exists():
            raise Refused(f"Your account is connected with another identity at {name}. Disconnect that one first.")
        try:
            with transaction.atomic():
                _tie(request, sociallogin, user)
        except IntegrityError:  # another tab was faster by a moment
            if not _is_tied_by_now(sociallogin) or sociallogin.user != user:
                raise Refused(AT_ONCE) from None
    messages.success(request, f"From now on you can sign in with {name}.")
