"""Channels and deliveries for staff, to look at. Secrets are nowhere here; channels are made and changed on their own pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from evsys_web.accounts.admin import ProjectFilter
from evsys_web.notifications.models import Channel, Delivery
from evsys_web.runs.admin import ReadOnly


@admin.register(Channel)
class ChannelAdmin(ReadOnly, admin.ModelAdmin[Channel]):
    list_display = ("target", "kind", "project", "is_on", "num_failures", "created_by", "created_at")
    list_filter = ("kind", ("project", ProjectFilter))
    search_fields = ("target",)
    list_select_related = ("project", "created_by")
    fields = ("project", "kind", "target", "events", "enabled_at", "off_reason", "num_failures", "created_by", "created_at")
    readonly_fields = fields

    @admin.display(boolean=True)
    def is_on(self, channel: Channel) -> bool:
        return channel.is_on


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, admin.ModelAdmin[Delivery]):
    list_display = ("notice", "channel", "status", "num_tries", "response_code", "created_at", "ended_at")
    list_filter = ("status",)
    list_select_related = ("notice", "channel")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
