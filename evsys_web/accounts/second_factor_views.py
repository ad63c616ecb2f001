"""The page on which a second factor is turned on, looked at and turned off, and the step of a sign-in that asks for it."""

from __future__ import annotations

import base64
from typing import Any

from allauth.account.stages import LoginStageController
from allauth.mfa.adapter import get_adapter
from allauth.mfa.stages import AuthenticateStage
from allauth.mfa.totp.internal.auth import clear_totp_secret
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts import second_factor
from evsys_web.accounts.second_factor_forms import CodeForm, ConfirmWithCodeForm, TurnOnForm
from evsys_web.accounts.sessions import end_other_sessions
from evsys_web.accounts.views import signed_in

NONE_THERE = "You have no second factor. Here you can turn one on."


@login_not_required
@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def second_step(request: HttpRequest) -> HttpResponse:
    """Of a sign-in whose first step was right within the last minutes; anybody else begins at the beginning."""
    stage = None if request.user.is_authenticated else LoginStageController.enter(request, AuthenticateStage.key)
    if stage is None or stage.login.user is None:
        return redirect("home:dashboard" if request.user.is_authenticated else "accounts:login")
    form = CodeForm(request.POST or None, request=request, user=stage.login.user)
    if request.method == "POST" and form.is_valid():
        response: HttpResponse = stage.exit()
        return response
    return render(request, "accounts/second_step.html", {"form": form, "person": stage.login.user})


@never_cache
@sensitive_post_parameters()
@sensitive_variables("codes", "form")
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if second_factor.second_factor_of(user):
        return redirect("accounts:second-factor") if request.method == "POST" else _page(request)
    num_tokens = second_factor.num_usable_tokens(user)
    form = TurnOnForm(request.POST or None, request=request, user=user, num_tokens=num_tokens)
    if request.method == "POST" and form.is_valid():
        codes = second_factor.turn_on(user=user, secret=form.secret, revoke_tokens=form.cleaned_data.get("revoke_tokens", False))
        clear_totp_secret(request)
        end_other_sessions(request, user)
        return _page(request, codes=codes, is_new=True)
    return _page(request, turn_on=form, qr_code=_qr_code(user, form.secret), status=422 if form.errors else 200)


@never_cache
@sensitive_post_parameters()
@sensitive_variables("codes", "form")
@require_POST
def new_codes(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    form = ConfirmWithCodeForm(request.POST, request=request, user=user, auto_id="codes_%s")
    if not second_factor.second_factor_of(user):
        messages.info(request, NONE_THERE)
        return redirect("accounts:second-factor")
    if not form.is_valid():
        return _page(request, codes_form=form, status=422)
    return _page(request, codes=second_factor.make_new_codes(user=user))


@never_cache
@sensitive_post_parameters()
@require_POST
def turn_off(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    form = ConfirmWithCodeForm(request.POST, request=request, user=user, auto_id="off_%s")
    if second_factor.second_factor_of(user) and not form.is_valid():
        return _page(request, off_form=form, status=422)
    if second_factor.remove(user=user, by=user):
        messages.success(request, "The second factor is off: your password alone signs you in.")
    else:
        messages.info(request, NONE_THERE)
    return redirect("accounts:second-factor")


def _page(request: HttpRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    user = signed_in(request)
    for name in ("codes", "off"):
        context.setdefault(f"{name}_form", ConfirmWithCodeForm(request=request, user=user, auto_id=f"{name}_%s"))
    context["factor"] = second_factor.second_factor_of(user)
    return render(request, "accounts/second_factor.html", context, status=status)


def _qr_code(user: Any, secret: str) -> str:
    """An image as a data: address, which the policy allows for images alone."""
    adapter = get_adapter()
    drawn: str = adapter.build_totp_svg(adapter.build_totp_url(user, secret))
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"
