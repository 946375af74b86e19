"""Telling people and other systems what happened: the console's bell, e-mails and webhooks.

``webhooks`` is not imported here: its HTTP client costs each process a tenth of a second.
"""

from ota.notices.bell import unread
from ota.notices.mails import send
from ota.notices.telling import damaged, forget, tell

__all__ = ["damaged", "forget", "send", "tell", "unread"]
