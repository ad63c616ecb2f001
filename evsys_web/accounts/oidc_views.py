"""To the provider and back; and the page on which an account is connected with it."""

from __future__ import annotations

from allauth.account.utils import get_next_redirect_url
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.base.constants import AuthProcess
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from requests import RequestException

from evsys_web.accounts.audit import record
from evsys_web.accounts.freshness import note_proof, signed_in_a_moment_ago
from evsys_web.accounts.models import User
from evsys_web.accounts.oidc import configured
from evsys_web.accounts.oidc_client import OidcClient, failed, refused
from evsys_web.accounts.origin import origin
from evsys_web.accounts.second_factor_forms import ConfirmForm
from evsys_web.accounts.views import signed_in
from evsys_web.rates import is_too_often

CONFIRMED = "sso_connect"
STRANGER_SECONDS = 900
BEGUN_A_MINUTE = 30
"""From one address, behind which an office may sit."""
TOO_OFTEN = "Single sign-on was begun too often from your address. Wait a minute, then begin again."
NO_SENSE = (KeyError, TypeError, AttributeError, ValueError)
"""What allauth stumbles with over answers that are no OpenID Connect."""


@login_not_required
@never_cache
@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """Off to the provider. Whoever is signed in goes there to connect their account, if they said their password just now.
    So many times a minute from one address: each begins a session here, and may ask the provider."""
    provider_id = configured().provider_id
    if is_too_often(f"sso:{origin().address}", limit=BEGUN_A_MINUTE):
        return refused(request, TOO_OFTEN, status=429)
    user = request.user if isinstance(request.user, User) else None
    if user and (request.session.pop(CONFIRMED, None) != user.pk or not signed_in_a_moment_ago(request, user)):
        return redirect("home:dashboard")
    provider = get_adapter(request).get_provider(request, provider_id)
    provider.oauth2_adapter_class = OidcClient
    if user is None:
        request.session.set_expiry(STRANGER_SECONDS)
    try:
        response: HttpResponse = provider.redirect(
            request,
            process=AuthProcess.CONNECT if user else AuthProcess.LOGIN,
            next_url=get_next_redirect_url(request),
            data={"user": user.pk} if user else None,
        )
    except (RequestException, *NO_SENSE) as error:
        return failed(request, exception=error)
    return response


@login_not_required
@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponse:
    """What the provider sends the browser back to."""
    provider_id = configured().provider_id
    if is_too_often(f"sso-back:{origin().address}", limit=BEGUN_A_MINUTE):
        return refused(request, TOO_OFTEN, status=429)
    adapter = OidcClient(request, provider_id)
    try:
        response: HttpResponse = OAuth2CallbackView.adapter_view(adapter)(request)
    except (RequestException, *NO_SENSE) as error:
        return failed(request, exception=error)
    return response


@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest) -> HttpResponse:
    """Asks for the password, then shows the way to the provider: our policy lets no form lead there by itself."""
    provider, user = configured(), signed_in(request)
    form = ConfirmForm(request.POST or None, request=request, user=user)
    is_confirmed = request.method == "POST" and form.is_valid()
    if is_confirmed:
        if user.has_usable_password():  # else nothing was proven anew
            note_proof(request, user)
        request.session[CONFIRMED] = user.pk
    is_connected = SocialAccount.objects.filter(user=user, provider=provider.provider_id).exists()
    context = {"form": form, "is_confirmed": is_confirmed, "is_connected": is_connected, "provider": provider.name}
    return render(request, "accounts/connect.html", context, status=422 if form.errors else 200)


@require_POST
def disconnect(request: HttpRequest) -> HttpResponse:
    """Also of a provider that is not there any more. Who has no password would be locked out."""
    user = signed_in(request)
    if not user.has_usable_password():
        messages.error(request, "Your account has no password: without single sign-on nobody could sign in to it.")
        return redirect("accounts:profile")
    with transaction.atomic():
        count, _ = SocialAccount.objects.filter(user=user).delete()
        if count:
            record(user, "disconnected single sign-on from", user)
    if count:
        messages.success(request, "Your account is not connected with single sign-on any more.")
    else:
        messages.info(request, "Your account was not connected with single sign-on.")
    return redirect("accounts:profile")
