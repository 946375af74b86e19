"""What the bridge leaves behind: messages that failed, and whether somebody is listening."""

import datetime as dt
import re
from collections.abc import Iterable
from typing import NamedTuple

from django.conf import settings
from django.db import models
from django.utils import timezone

KEPT = 1000
_SECRET = re.compile(
    r'("[a-z_]*(?:secret|code|nonce|token|key|license|password)[a-z_]*"\s*:\s*)"(?:[^"\\]|\\.)*"?',
    re.IGNORECASE,
)


class FailedMessageQuerySet(models.QuerySet["FailedMessage"]):
    def keep(self, failed: Iterable["FailedMessage"]) -> None:
        """Stores the messages and removes all but the newest 1,000."""
        self.bulk_create(failed)
        oldest = self.order_by("-pk").values_list("pk", flat=True)[KEPT : KEPT + 1].first()
        if oldest is not None:
            self.filter(pk__lte=oldest).delete()


class FailedMessage(models.Model):
    """A message that no handler could take; acknowledged, and kept here to be looked at."""

    at = models.DateTimeField("received", db_index=True)
    topic = models.CharField(max_length=200)
    tid = models.CharField(max_length=64, blank=True)
    reason = models.TextField()
    payload = models.TextField(help_text="The first 4,000 characters; secrets are masked.")

    objects = FailedMessageQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.topic} at {self.at:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def of(
        cls, topic: str, payload: bytes, at: dt.datetime, reason: str, tid: str = ""
    ) -> "FailedMessage":
        return cls(
            at=at,
            topic=_printable(topic)[:200],
            tid=tid,
            reason=_printable(reason)[:1000],
            payload=masked(_printable(payload[:4000].decode(errors="replace"))),
        )


class Heard(NamedTuple):
    """Of what came between these two moments everything is known."""

    since: dt.datetime
    until: dt.datetime
    is_behind: bool = False


class BridgeSessionQuerySet(models.QuerySet["BridgeSession"]):
    def heard(self, now: dt.datetime) -> Heard | None:
        """Since when and until when we know what the docks say; None while we do not hear it all.

        The bridge that came last counts: one that was there before it may have died, and then nobody
        heard what came in between. Bridges that share a group hear all of it together, so of them
        the one that was seen the longest ago tells until when: nobody knows yet whether it has died.
        """
        if self.away(now).exists():
            return None
        seen = models.Min if settings.MQTT_SHARED_GROUP else models.Max
        found = self.listening(now).aggregate(
            since=models.Max("connected_since"),
            seen=seen("seen_at"),
            behind=models.Min("behind_since"),
        )
        if found["since"] is None:
            return None
        until = min(now, found["seen"], found["behind"] or now)
        return Heard(found["since"], until, is_behind=found["behind"] is not None)

    def away(self, now: dt.datetime) -> "BridgeSessionQuerySet":
        """Of bridges that share a group those that do not listen: part of what docks say waits for them.

        So it is until the broker has forgotten them, or somebody has removed them here.
        """
        if not settings.MQTT_SHARED_GROUP:
            return self.none()
        known = self.filter(seen_at__gt=now - BridgeSession.REMEMBERED)
        return known.exclude(pk__in=self.listening(now).values("pk"))

    def listening_since(self, now: dt.datetime) -> dt.datetime | None:
        """Since when a bridge has been connected without a break; None while none is."""
        found = self.listening(now).aggregate(since=models.Min("connected_since"))
        since: dt.datetime | None = found["since"]
        return since

    def have_caught_up(self, now: dt.datetime) -> bool:
        """Whether what comes now is none of what the broker kept: all that run have listened for a while."""
        running = self.filter(seen_at__gt=now - BridgeSession.SILENCE)
        since = list(running.values_list("connected_since", flat=True))
        return bool(since) and all(at and now - at >= BridgeSession.CATCH_UP for at in since)

    def listening(self, now: dt.datetime) -> "BridgeSessionQuerySet":
        """Those that are alive and connected."""
        return self.filter(seen_at__gt=now - BridgeSession.SILENCE, connected_since__isnull=False)


class BridgeSession(models.Model):
    """One bridge process and when it last said that it is alive."""

    BEAT = dt.timedelta(seconds=2)
    SILENCE = dt.timedelta(seconds=15)
    REMEMBERED = dt.timedelta(days=7)  # by the broker, see deploy.md
    # After a break a bridge first brings in what the broker kept.
    CATCH_UP = dt.timedelta(seconds=60)

    client_id = models.CharField(max_length=200, unique=True)
    process = models.CharField(max_length=200, blank=True, help_text="Host and process id.")
    connected_since = models.DateTimeField(null=True)
    behind_since = models.DateTimeField(
        null=True, help_text="Up to when it is known what docks say, where that is not now."
    )
    seen_at = models.DateTimeField()

    objects = BridgeSessionQuerySet.as_manager()

    def __str__(self) -> str:
        return self.client_id

    @property
    def is_listening(self) -> bool:
        fresh = self.seen_at > timezone.now() - self.SILENCE
        return fresh and self.connected_since is not None


def masked(text: str) -> str:
    """JSON text in which the values of keys that name secrets are ``***``."""
    return _SECRET.sub(r'\1"***"', text)


def _printable(text: str) -> str:
    return text.replace("\x00", "�")
