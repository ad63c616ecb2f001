"""Where a project is told: the list with its two forms, and a channel with everything that was sent to it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from evsys_web.accounts.permissions import require_editor, require_editor_somewhere
from evsys_web.accounts.views import signed_in
from evsys_web.notifications.actions import add_channel, choose_events, delete_channel, send_test, switch_channel
from evsys_web.notifications.forms import ChannelForm, EventsForm
from evsys_web.notifications.models import MAX_TRIES, Channel, Kind
from evsys_web.notifications.signature import HEADER, receiver_source
from evsys_web.runs.actions import RunRefused
from recipes.errors import ConfigError

DELIVERIES_PER_PAGE = 25


@never_cache
@sensitive_variables("added")
@require_http_methods(["GET", "HEAD", "POST"])
def channels(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    if request.method == "POST":
        require_editor_somewhere(user)
    sent = next((kind for kind in Kind if kind.value == request.POST.get("kind")), None)
    forms = {kind: ChannelForm(request.POST if kind is sent else None, user=user, kind=kind) for kind in Kind}
    added = None
    if sent is not None and (form := forms[sent]).is_valid():
        try:
            added = add_channel(user=user, kind=sent, **form.cleaned_data)
        except ConfigError as error:
            form.add_error(str(error.path[0]) if error.path else None, str(error))
        else:
            forms[sent] = ChannelForm(user=user, kind=sent)
    context = {
        "channels": Channel.objects.visible_to(user).select_related("project").order_by("project", "kind", "target"),
        "webhook_form": forms[Kind.WEBHOOK],
        "email_form": forms[Kind.EMAIL],
        "email_is_sent": settings.EMAIL_IS_SENT,
        "added": added,
        **_receiver(),
    }
    refused = any(form.is_bound and form.errors for form in forms.values())
    return render(request, "notifications/channels.html", context, status=422 if refused else 200)


@require_http_methods(["GET", "HEAD", "POST"])
def channel_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """POST chooses other events."""
    channel = found(request, pk)
    if request.method == "POST":
        require_editor(signed_in(request), channel.project)
    form = EventsForm(request.POST or None, initial={"events": channel.events})
    if request.method == "POST" and form.is_valid():
        choose_events(user=signed_in(request), channel=channel, events=form.cleaned_data["events"])
        messages.success(request, "Saved.")
        return redirect(channel)
    context = {**_deliveries(request, channel), **_receiver(), "form": form}
    return render(request, "notifications/channel.html", context, status=422 if form.errors else 200)


@require_safe
def channel_deliveries(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "notifications/_deliveries.html", _deliveries(request, found(request, pk)))


@require_POST
def test(request: HttpRequest, pk: int) -> HttpResponse:
    channel = found(request, pk)
    try:
        send_test(user=signed_in(request), channel=channel)
    except RunRefused as refusal:
        messages.error(request, str(refusal))
    return redirect(channel)


@require_POST
def switch(request: HttpRequest, pk: int) -> HttpResponse:
    channel = found(request, pk)
    switch_channel(user=signed_in(request), channel=channel, on=request.POST.get("on") == "1")
    return redirect(channel)


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    channel = found(request, pk)
    delete_channel(user=signed_in(request), channel=channel)
    messages.success(request, f"{channel.target} is told nothing any more.")
    return redirect("notifications:channels")


def found(request: HttpRequest, pk: int) -> Channel:
    """The channel, or 404 for whoever may not see it."""
    visible = Channel.objects.visible_to(signed_in(request)).select_related("project", "created_by")
    channel: Channel = get_object_or_404(visible, pk=pk)
    return channel


def _deliveries(request: HttpRequest, channel: Channel) -> dict[str, Any]:
    sent = channel.deliveries.select_related("notice")
    page = Paginator(sent, DELIVERIES_PER_PAGE).get_page(request.GET.get("page"))
    return {
        "channel": channel,
        "page": page,
        "is_live": any(delivery.is_waiting for delivery in page),
        "max_tries": MAX_TRIES,
    }


def _receiver() -> dict[str, str]:
    return {"signature_header": HEADER, "receiver_source": receiver_source()}
