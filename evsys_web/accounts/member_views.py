"""The page of a project, where its people are, and the page that an invitation's link opens."""

from __future__ import annotations

from typing import Any

from allauth.account.utils import perform_login
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import UserCreationForm
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from evsys_web.accounts import member_actions as actions
from evsys_web.accounts.audit import record
from evsys_web.accounts.models import Invitation, Membership, Project, Role, User
from evsys_web.accounts.permissions import may_administer, require_admin
from evsys_web.accounts.views import signed_in
from recipes.errors import ConfigError


class InviteForm(forms.Form):
    role = forms.ChoiceField(
        choices=Role.choices, initial=Role.EDITOR, help_text="Viewers look, editors work, admins also say who is in the project."
    )
    email = forms.EmailField(
        required=False, max_length=254, label="E-mail", help_text="Left empty, you get the link to pass on yourself."
    )
    use_required_attribute = False


class AccountForm(UserCreationForm[User]):
    """A new account for whoever holds an invitation."""

    class Meta:
        model = User
        fields = ("username",)


@require_POST
def new_project(request: HttpRequest) -> HttpResponse:
    try:
        return redirect("accounts:project", actions.create_project(user=signed_in(request), name=request.POST.get("name", "")).pk)
    except ConfigError as error:
        messages.error(request, str(error))
        return redirect("accounts:profile")


@require_safe
def project(request: HttpRequest, pk: int) -> HttpResponse:
    return _page(request, found(request, pk))


@never_cache
@require_POST
@sensitive_variables("invited")
def invite(request: HttpRequest, pk: int) -> HttpResponse:
    user, room = signed_in(request), found(request, pk)
    require_admin(user, room)
    form = InviteForm(request.POST)
    if not form.is_valid():
        return _page(request, room, form=form)
    try:
        invited = actions.invite(user=user, project=room, **form.cleaned_data)
    except (ConfigError, ValidationError) as error:
        form.add_error(None, str(error))
        return _page(request, room, form=form)
    return _page(request, room, invited=invited)


@require_POST
def withdraw(request: HttpRequest, pk: int, invitation_pk: int) -> HttpResponse:
    user, room = signed_in(request), found(request, pk)
    require_admin(user, room)
    actions.withdraw(user=user, invitation=get_object_or_404(Invitation.objects.open(), pk=invitation_pk, project=room))
    messages.success(request, "The invitation is withdrawn; its link opens nothing any more.")
    return redirect("accounts:project", room.pk)


@require_POST
def change_role(request: HttpRequest, pk: int, member_pk: int) -> HttpResponse:
    membership = _membership(request, pk, member_pk)
    try:
        actions.change_role(user=signed_in(request), membership=membership, role=request.POST.get("role", ""))
    except ConfigError as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"{membership.user} is now {membership.get_role_display().lower()}.")
    return redirect("accounts:project", pk)


@require_POST
def remove(request: HttpRequest, pk: int, member_pk: int) -> HttpResponse:
    membership, user = _membership(request, pk, member_pk), signed_in(request)
    try:
        actions.remove_member(user=user, membership=membership)
    except ConfigError as refusal:
        messages.error(request, str(refusal))
        return redirect("accounts:project", pk)
    if membership.user_id == user.pk:
        messages.success(request, f"You left {membership.project}.")
        return redirect("accounts:profile")
    messages.success(request, f"{membership.user} is not in the project any more.")
    return redirect("accounts:project", pk)


@login_not_required
@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest, secret: str) -> HttpResponse:
    """Whoever is signed in joins as themselves; anybody else makes an account, or signs in first."""
    found = Invitation.objects.matching(secret)
    if found is None:
        return render(request, "accounts/invitation.html", {"invitation": None}, status=410)
    user = request.user if isinstance(request.user, User) else None
    form = AccountForm(request.POST or None) if user is None else None
    if request.method == "POST" and (form is None or form.is_valid()):
        if form is None:
            joined = user is not None and actions.accept(user=user, invitation=found)
        else:
            joined = _joined_with_new_account(request, form, found) is not None
        if not joined:
            return render(request, "accounts/invitation.html", {"invitation": None}, status=410)
        messages.success(request, f"You are in {found.project} now, as {found.get_role_display().lower()}.")
        return redirect("home:dashboard")
    status = 422 if form is not None and form.errors else 200
    context = {"invitation": found, "form": form, "sso": settings.OIDC}
    return render(request, "accounts/invitation.html", context, status=status)


def found(request: HttpRequest, pk: int) -> Project:
    """The project, or 404 for whoever is not in it."""
    room: Project = get_object_or_404(Project.objects.visible_to(signed_in(request)), pk=pk)
    return room


@transaction.atomic
def _joined_with_new_account(request: HttpRequest, form: AccountForm, found: Invitation) -> User | None:
    user = form.save(commit=False)
    user.email = found.email
    user.save()
    if not actions.accept(user=user, invitation=found):
        transaction.set_rollback(True)
        return None
    record(user, "made", user, after={"username": user.username, "email": user.email})
    perform_login(request, user)
    return user


def _membership(request: HttpRequest, pk: int, member_pk: int) -> Membership:
    room = found(request, pk)
    membership: Membership = get_object_or_404(Membership.objects.select_related("project", "user"), pk=member_pk, project=room)
    return membership


def _page(request: HttpRequest, room: Project, **context: Any) -> HttpResponse:
    form = context.setdefault("form", InviteForm())
    context |= {
        "project": room,
        "memberships": room.memberships.select_related("user").order_by("user__username"),
        "invitations": Invitation.objects.open().filter(project=room).select_related("created_by").order_by("expires_at"),
        "roles": Role.choices,
        "is_admin": may_administer(signed_in(request), room),
    }
    return render(request, "accounts/project.html", context, status=422 if form.errors else 200)
