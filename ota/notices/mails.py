"""E-mails: what a person wants to hear by e-mail, gathered into one, outside the person's quiet hours."""

import contextlib
import datetime as dt
import logging
import smtplib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import User
from django.core import mail
from django.db.models import F, Max, QuerySet
from django.urls import reverse
from django.utils import timezone

from ota import windows
from ota.models import Notice, Preference
from ota.notices import pauses

logger = logging.getLogger(__name__)

PEOPLE = 50  # in one round; the next one goes on
LISTED = 20  # notices in one e-mail; the rest is counted
# What comes soon after an e-mail is gathered for the next.
GATHERED = dt.timedelta(minutes=5)
# How long a worker may take to send; what a killed one had taken goes again after that.
CLAIMED = dt.timedelta(minutes=5)
# A round ends after this, so that a slow mail server does not hold a worker for long.
PATIENCE = dt.timedelta(seconds=20)

_FAILURES = (OSError, smtplib.SMTPException)


class _Letter(NamedTuple):
    """The notices that go to a person now: all ``rows``, the newest ``shown``."""

    user: User
    rows: QuerySet[Notice]
    shown: Sequence[Notice]
    total: int


def send(now: dt.datetime, is_ending: Callable[[], bool]) -> None:
    """Sends what is due, at most one e-mail to each person; what fails is sent again later.

    A worker that ``is_ending`` leaves the rest to the next round.
    """
    people = _ready(now) if settings.SENDS_EMAIL else []
    if not people:
        return
    connection = mail.get_connection()
    try:
        connection.open()
    except _FAILURES as error:
        for user in people:
            _put_off(user, now, error)
        return
    try:
        _send_to(people, connection, now, is_ending)
    finally:
        connection.close()


def _send_to(
    people: Sequence[User], connection: Any, now: dt.datetime, is_ending: Callable[[], bool]
) -> None:
    end = timezone.now() + PATIENCE
    for user in people:
        letter = _claim(user, now)
        if letter:
            _send(letter, connection, now)
        if is_ending() or timezone.now() > end:
            return


def _ready(now: dt.datetime) -> list[User]:
    """Those who get an e-mail now; for the others it is put off, so that they are in nobody's way."""
    due = Notice.objects.filter(mail_at__lte=now).order_by("user")
    keys = list(due.values_list("user", flat=True).distinct()[:PEOPLE])
    rows = Notice.objects.filter(user__in=keys, mailed_at__gt=now - GATHERED).order_by()
    last = dict(rows.values_list("user").annotate(Max("mailed_at")))
    preferences = Preference.objects.filter(user__in=keys, organization=None)
    quiet = {preference.user_id: _quiet_until(preference, now) for preference in preferences}
    ready = []
    for user in User.objects.filter(pk__in=keys):
        until = quiet.get(user.pk) or (last[user.pk] + GATHERED if user.pk in last else None)
        if not until and user.is_active and user.email:
            ready.append(user)
        else:
            gone = not (user.is_active and user.email)
            due.filter(user=user).update(mail_at=None if gone else until)
    return ready


def _quiet_until(preference: Preference, now: dt.datetime) -> dt.datetime | None:
    """When the person's quiet hours end; None if there are none now."""
    quiet = windows.parse(preference.quiet_hours)
    if not quiet:
        return None
    moment = windows.at(quiet, ZoneInfo(preference.time_zone), now)
    return moment.until if moment.is_open else None


def _claim(user: User, now: dt.datetime) -> _Letter | None:
    """Takes what is due for a person, so that nobody else sends it meanwhile."""
    until = timezone.now() + CLAIMED
    count = Notice.objects.filter(user=user, mail_at__lte=now).update(mail_at=until)
    if not count:
        return None
    rows = Notice.objects.filter(user=user, mail_at=until)
    shown = rows.select_related("news").order_by("-pk")[:LISTED]
    return _Letter(user, rows, list(shown), count)


def _send(letter: _Letter, connection: Any, now: dt.datetime) -> None:
    try:
        _message(letter, connection).send()
    except _FAILURES as error:
        _failed(letter, now, error)
        # The server may have hung up: the next one gets a connection of its own.
        with contextlib.suppress(*_FAILURES):
            connection.close()
    else:
        letter.rows.update(mail_at=None, mailed_at=now)


def _put_off(user: User, now: dt.datetime, error: Exception) -> None:
    letter = _claim(user, now)
    if letter:
        _failed(letter, now, error)


def _failed(letter: _Letter, now: dt.datetime, error: Exception) -> None:
    """Waits longer with each attempt, and gives up after the last."""
    attempts = max(notice.mail_attempts for notice in letter.shown) + 1
    pause = pauses.after(min(attempts, pauses.MOST))
    logger.warning("e-mail to %s was not sent, attempt %s: %s", letter.user, attempts, error)
    given_up = letter.rows.filter(mail_attempts__gte=pauses.MOST).update(mail_at=None)
    if given_up:
        logger.error("%s notices to %s are given up: %s", given_up, letter.user, error)
    if pause:
        letter.rows.update(mail_at=now + pause, mail_attempts=F("mail_attempts") + 1)


def _message(letter: _Letter, connection: Any) -> mail.EmailMessage:
    """One e-mail; its id stays the same if it goes twice."""
    host = urlsplit(settings.PUBLIC_URL).hostname
    return mail.EmailMessage(
        subject=_subject(letter),
        body=_body(letter),
        to=[letter.user.email],
        connection=connection,
        headers={
            "Message-ID": f"<notice-{letter.shown[0].pk}-{letter.total}@{host}>",
            "Auto-Submitted": "auto-generated",
        },
    )


def _subject(letter: _Letter) -> str:
    newest = " ".join(str(letter.shown[0]).split())
    return newest if letter.total == 1 else f"{newest}, and {letter.total - 1:,} more"


def _body(letter: _Letter) -> str:
    parts = [
        "\n".join(line for line in (one.news.title, one.news.text, one.news.url) if line)
        for one in letter.shown
    ]
    site = settings.PUBLIC_URL
    if more := letter.total - len(letter.shown):
        parts.append(f"And {more:,} more: {site}{reverse('admin:ota_notice_changelist')}")
    parts.append(f"What you are told, and how: {site}{reverse('admin:ota_notice_settings')}")
    return "\n\n".join(parts) + "\n"
