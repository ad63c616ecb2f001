"""`/api/v1/notifications`: where a project is told of what happened, and what was sent."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts.models import Project
from evsys_web.api.auth import caller
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate
from evsys_web.notifications import actions
from evsys_web.notifications.models import CHOOSABLE, Channel, Delivery
from evsys_web.runs.schemas import RowId

router = Router(tags=["notifications"])
EVENTS = [event.value for event in CHOOSABLE]


class ChannelIn(Schema):
    kind: Literal["webhook", "email"]
    target: str = Field(max_length=1000, description="The URL, or the e-mail address.")
    events: list[str] = Field(default=EVENTS, max_length=20, description=f"Of which events it is told: {', '.join(EVENTS)}.")
    project: RowId | None = Field(None, description="Id of the project; left away, your first one.")


class ChannelChange(Schema):
    events: list[str] | None = Field(None, max_length=20, description="Other events.")
    is_on: bool | None = Field(None, description="Turn it on or off. What happens while it is off is not caught up.")


class ChannelOut(Schema):
    id: int
    project_id: int
    kind: str
    target: str
    events: list[str]
    is_on: bool
    off_reason: str = Field(description="Why it was turned off.")
    num_failures: int = Field(description="Deliveries given up since the last success.")
    created_at: datetime


class AddedOut(Schema):
    channel: ChannelOut
    secret: str = Field(description="Signs the webhook's messages. It is shown this once; empty for an e-mail address.")


class DeliveryOut(Schema):
    id: int
    event_id: str = Field(alias="notice.event_id", description="The same however often the message arrives.")
    type: str = Field(alias="notice.type", description="run.finished, eval.crashed, run.nan_loss, test …")
    message: str = Field(alias="notice.sentence")
    status: str = Field(description="queued, running, completed or failed.")
    num_tries: int
    due_at: datetime = Field(description="When it is tried next, while it is queued.")
    response_code: int | None
    error: str
    created_at: datetime
    ended_at: datetime | None


@router.post("", response={201: AddedOut}, summary="Tell a URL or an address of a project's events")
@idempotent
def add_channel(request: HttpRequest, body: ChannelIn) -> Status[actions.AddedChannel]:
    """Messages to a URL carry `EvSys-Signature: t=<unix seconds>,v1=<hex>`: HMAC-SHA256, under the secret, of the seconds, a dot
    and the body. Anything but 2xx is tried again, up to seven times within four hours; 410 turns the webhook off."""
    user = caller(request)
    project = get_object_or_404(Project.objects.visible_to(user), pk=body.project) if body.project else user.default_project()
    added = actions.add_channel(user=user, project=project, kind=body.kind, target=body.target, events=body.events)
    return Status(201, added)


@router.get("", response=Page[ChannelOut], summary="List the channels of your projects, without secrets")
def list_channels(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(Channel.objects.visible_to(caller(request)), query)


@router.get("/{int:channel_id}", response=ChannelOut, summary="One channel")
def get_channel(request: HttpRequest, channel_id: int) -> Channel:
    return _channel(request, channel_id)


@router.patch("/{int:channel_id}", response=ChannelOut, summary="Choose other events, or turn it on or off")
def change_channel(request: HttpRequest, channel_id: int, body: ChannelChange) -> Channel:
    channel, user = _channel(request, channel_id), caller(request)
    if body.events is not None:
        actions.choose_events(user=user, channel=channel, events=body.events)
    if body.is_on is not None:
        actions.switch_channel(user=user, channel=channel, on=body.is_on)
    return channel


@router.delete("/{int:channel_id}", response={204: None}, summary="Delete a channel, with everything that was sent to it")
def delete_channel(request: HttpRequest, channel_id: int) -> Status[None]:
    actions.delete_channel(user=caller(request), channel=_channel(request, channel_id))
    return Status(204, None)


@router.post("/{int:channel_id}/test", response={201: DeliveryOut}, summary="Send a test message")
def send_test(request: HttpRequest, channel_id: int) -> Status[Delivery]:
    return Status(201, actions.send_test(user=caller(request), channel=_channel(request, channel_id)))


@router.get("/{int:channel_id}/deliveries", response=Page[DeliveryOut], summary="What was sent to a channel, newest first")
def list_deliveries(request: HttpRequest, channel_id: int, query: Query[PageQuery]) -> Slice:
    return paginate(_channel(request, channel_id).deliveries.select_related("notice"), query)


def _channel(request: HttpRequest, channel_id: int) -> Channel:
    channel: Channel = get_object_or_404(Channel.objects.visible_to(caller(request)), pk=channel_id)
    return channel
