"""Sign-in, profile, password, and the pages of tokens and credentials."""

from __future__ import annotations

from typing import Any

from allauth.account.internal.flows.login import record_authentication
from allauth.account.utils import perform_login
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import views as auth_views
from django.contrib.messages.views import SuccessMessageMixin
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from evsys_web.accounts.actions import delete_credential, issue_token, revoke_token, store_credential
from evsys_web.accounts.audit import facts, record
from evsys_web.accounts.forms import CredentialForm, OwnPasswordForm, ProfileForm, TokenForm
from evsys_web.accounts.lockout import note_failure, refused_for_now
from evsys_web.accounts.models import ApiToken, BackendCredential, User
from evsys_web.accounts.permissions import require_editor_somewhere
from evsys_web.accounts.second_factor import second_factor_of
from recipes.errors import ConfigError

METHODS = ["get", "head", "post", "options"]  # Django's own views take a PUT for a POST


class LoginView(auth_views.LoginView):
    """The one way in with a password, the admin's included. allauth goes on from here: it asks for the second factor, if there is
    one, and signs in."""

    template_name = "accounts/login.html"
    redirect_authenticated_user = True
    http_method_names = METHODS

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(sso=settings.OIDC, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return refused_for_now(request) or super().post(request, *args, **kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        note_failure(self.request)
        return super().form_invalid(form)

    def form_valid(self, form: Any) -> HttpResponse:
        user = form.get_user()
        record_authentication(self.request, user, "password")
        response: HttpResponse = perform_login(self.request, user, redirect_url=self.get_success_url())
        return response


class PasswordView(SuccessMessageMixin, auth_views.PasswordChangeView):  # type: ignore[type-arg]
    """The one place where a person sets their own password while signed in."""

    template_name = "accounts/password.html"
    form_class = OwnPasswordForm
    http_method_names = METHODS
    success_url = reverse_lazy("accounts:profile")
    success_message = "Your password is changed. Other browsers were signed out."

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"request": self.request}

    def form_valid(self, form: Any) -> HttpResponse:
        record(signed_in(self.request), "changed the password of", signed_in(self.request))
        return super().form_valid(form)


def signed_in(request: HttpRequest) -> User:
    """The person behind a request that LoginRequiredMiddleware let through."""
    assert isinstance(request.user, User)
    return request.user


@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    before = facts(user)
    form = ProfileForm(request.POST or None, instance=user, request=request)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            record(user, "changed", user, before=before, after=facts(user))
        messages.success(request, "Your profile is saved.")
        return redirect("accounts:profile")
    context = {
        "form": form,
        "memberships": user.memberships.select_related("project").order_by("pk"),
        "has_second_factor": second_factor_of(user) is not None,
        "sso": settings.OIDC,
        "connections": SocialAccount.objects.filter(user=user),
    }
    return render(request, "accounts/profile.html", context)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("secret")
def tokens(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    form = TokenForm(request.POST or None, user=user)
    secret = None
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        _, secret = issue_token(user=user, name=data["name"], scope=data["scope"], expires_at=form.expires_at())
        form = TokenForm(user=user)
    listed = ApiToken.objects.of(user).order_by("revoked_at", "-created_at")[:200]
    return render(request, "accounts/tokens.html", {"form": form, "tokens": listed, "secret": secret})


@require_POST
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        revoked = revoke_token(user=signed_in(request), token_id=pk)
    except ApiToken.DoesNotExist:
        raise Http404 from None
    if revoked:
        messages.success(request, "The token is revoked. Whoever uses it is refused from now on.")
    else:
        messages.info(request, "That token was revoked before.")
    return redirect("accounts:tokens")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("secret")
@sensitive_variables("form")
def credentials(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if request.method == "POST":
        require_editor_somewhere(user)
    form = CredentialForm(request.POST or None, user=user)
    if request.method == "POST" and form.is_valid():
        try:
            stored = store_credential(user=user, **form.cleaned_data)
        except ConfigError as error:
            form.add_error(str(error.path[0]) if error.path else None, str(error))
        else:
            messages.success(request, f"The key of “{stored.name}” is stored. Test it here.")
            return redirect("accounts:credential", stored.pk)
    listed = BackendCredential.objects.visible_to(user).select_related("project").order_by("project", "name")
    return render(request, "accounts/credentials.html", {"form": form, "credentials": listed})


@require_POST
def remove_credential(request: HttpRequest, pk: int) -> HttpResponse:
    user = signed_in(request)
    credential = get_object_or_404(BackendCredential.objects.visible_to(user), pk=pk)
    delete_credential(user=user, credential=credential)
    messages.success(request, f"The key of “{credential.name}” is deleted.")
    return redirect("accounts:credentials")
