"""The console's pages of what the bridge leaves behind: to be read, not to be changed."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from console.lists import ReadOnlyAdmin
from mqtt_bridge.models import BridgeSession, FailedMessage


@admin.register(FailedMessage)
class FailedMessageAdmin(ReadOnlyAdmin[FailedMessage]):
    when_empty = "All messages could be read so far. Nothing has to be done."
    list_display = ["at", "topic", "why", "tid"]
    search_fields = ["topic", "tid", "reason"]
    search_help_text = "Topic (it holds the serial number), tid or reason"
    fields = ["at", "topic", "tid", "whole_reason", "message"]
    readonly_fields = ["whole_reason", "message"]

    @admin.display(description="reason", ordering="reason")
    def why(self, failed: FailedMessage) -> str:
        return Truncator(failed.reason).chars(90)

    @admin.display(description="reason")
    def whole_reason(self, failed: FailedMessage) -> SafeString:
        return format_html('<pre class="raw">{}</pre>', failed.reason)

    @admin.display(description="payload")
    def message(self, failed: FailedMessage) -> SafeString:
        return format_html('<pre class="raw">{}</pre>', failed.payload)


@admin.register(BridgeSession)
class BridgeSessionAdmin(ReadOnlyAdmin[BridgeSession]):
    list_display = ["client_id", "listening", "connected_since", "behind_since", "seen_at"]
    readonly_fields = ["advice"]

    @admin.display(description="listening", boolean=True)
    def listening(self, session: BridgeSession) -> bool:
        return session.is_listening

    @admin.display(description="what to do")
    def advice(self, session: BridgeSession) -> str:
        if session.is_listening:
            return "Nothing."
        return (
            "Start it again. If it is gone for good, clear its session at the broker "
            "and delete it here: with MQTT_SHARED_GROUP all others wait for it."
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One that is gone for good; one that listens would be here again at once."""
        may = request.user.has_perm("mqtt_bridge.delete_bridgesession")
        return may and not (obj and obj.is_listening)
