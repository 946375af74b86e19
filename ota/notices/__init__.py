"""Telling people and other systems what happened: the console's bell, e-mails and webhooks."""

from ota.notices.bell import unread
from ota.notices.mails import send
from ota.notices.telling import damaged, forget, tell
from ota.notices.webhooks import deliver, signature

__all__ = ["damaged", "deliver", "forget", "send", "signature", "tell", "unread"]
