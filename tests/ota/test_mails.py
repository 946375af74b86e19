"""E-mails: gathered, not at night, and not lost when the mail server is away."""

import datetime as dt
import smtplib
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from demo import ports
from ota import notices
from ota.models import News, Notice, Preference, Rollout
from ota.notices import pauses
from tests.make import make_rollout

pytestmark = pytest.mark.django_db

MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(autouse=True)
def mail_server(settings: Settings) -> None:
    settings.SENDS_EMAIL = True
    settings.PUBLIC_URL = "https://fleet.example.org"
    settings.DEFAULT_FROM_EMAIL = "fleet@example.org"


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


@pytest.fixture
def rollout() -> Rollout:
    return make_rollout(name="Spring")


def person(name: str = "ada", **fields: Any) -> User:
    return User.objects.create_user(name, f"{name}@example.org", is_staff=True, **fields)


def notice(
    user: User, rollout: Rollout, at: dt.datetime, title: str = "Spring has finished"
) -> Notice:
    news = News.objects.create(
        kind="finished", at=at, rollout=rollout, title=title, text="38 proven", told_at=at
    )
    return Notice.objects.create(user=user, news=news, at=at, mail_at=at)


def send(now: dt.datetime, *, is_ending: bool = False) -> None:
    notices.send(now, lambda: is_ending)


class Picky(EmailBackend):
    """A mail server that knows some recipients only, and hangs up when it is asked for another."""

    has_hung_up = False

    def close(self) -> None:
        self.has_hung_up = False

    def send_messages(self, messages: Any) -> int:
        for message in messages:
            if self.has_hung_up:
                raise smtplib.SMTPServerDisconnected("please run connect() first")
            if message.to == ["unknown@example.org"]:
                self.has_hung_up = True
                raise smtplib.SMTPRecipientsRefused({"unknown@example.org": (550, b"who?")})
        return super().send_messages(messages)


PICKY = f"{__name__}.Picky"


def test_a_mail_says_what_happened_and_where_to_look(rollout: Rollout, now: dt.datetime) -> None:
    notice(person(), rollout, now)
    send(now)
    (sent,) = mail.outbox
    assert (sent.to, sent.from_email) == (["ada@example.org"], "fleet@example.org")
    assert sent.subject == "Spring has finished"
    assert sent.body.startswith(
        "Spring has finished\n38 proven\n"
        f"https://fleet.example.org/admin/ota/rollout/{rollout.pk}/change/\n"
    )
    assert "https://fleet.example.org/admin/ota/notice/settings/" in sent.body


def test_each_notice_is_mailed_once(rollout: Rollout, now: dt.datetime) -> None:
    notice(person(), rollout, now)
    for minutes in (0, 1, 60):
        send(now + minutes * MINUTE)
    assert len(mail.outbox) == 1


def test_what_happens_soon_after_a_mail_is_gathered_for_the_next(
    rollout: Rollout, now: dt.datetime
) -> None:
    user = person()
    notice(user, rollout, now)
    send(now)
    for minutes in (1, 2, 3):
        notice(user, rollout, now + minutes * MINUTE)
        send(now + minutes * MINUTE)
    assert len(mail.outbox) == 1
    send(now + 5 * MINUTE)
    assert [sent.subject for sent in mail.outbox[1:]] == ["Spring has finished, and 2 more"]


def test_ten_thousand_notices_are_one_mail_of_a_readable_length(
    rollout: Rollout, now: dt.datetime
) -> None:
    user = person()
    News.objects.bulk_create(
        News(kind="stopped", at=now, rollout=rollout, title=f"No. {n}", told_at=now)
        for n in range(10_000)
    )
    Notice.objects.bulk_create(
        Notice(user=user, news=news, at=now, mail_at=now) for news in News.objects.all()
    )
    send(now)
    send(now + 10 * MINUTE)
    (sent,) = mail.outbox
    assert sent.subject.endswith("and 9,999 more")
    assert "And 9,980 more: https://fleet.example.org/admin/ota/notice/" in sent.body
    assert len(sent.body) < 5_000


def test_a_name_with_a_line_break_makes_no_header_of_its_own(
    rollout: Rollout, now: dt.datetime
) -> None:
    notice(person(), rollout, now, "Spring\r\nBcc: eve@example.org has finished")
    send(now)
    assert mail.outbox[0].subject == "Spring Bcc: eve@example.org has finished"
    assert mail.outbox[0].recipients() == ["ada@example.org"]


def test_without_a_mail_server_nothing_is_sent(
    rollout: Rollout, now: dt.datetime, settings: Settings
) -> None:
    settings.SENDS_EMAIL = False
    notice(person(), rollout, now)
    send(now)
    assert not mail.outbox


@pytest.mark.parametrize("gone", [{"is_active": False}, {"email": ""}], ids=["left", "no address"])
def test_who_cannot_be_reached_any_more_is_in_nobodys_way(
    rollout: Rollout, now: dt.datetime, gone: dict[str, Any]
) -> None:
    user = person()
    notice(user, rollout, now)
    User.objects.filter(pk=user.pk).update(**gone)
    send(now)
    assert not mail.outbox
    assert not Notice.objects.filter(mail_at__isnull=False).exists()


# Quiet hours


def quiet(user: User, hours: str, time_zone: str) -> None:
    Preference.objects.create(user=user, quiet_hours=hours, time_zone=time_zone)


# 2026-01-15 is a Thursday; in Zurich it is one hour later than UTC.
NIGHT = dt.datetime(2026, 1, 15, 22, 30, tzinfo=dt.UTC)
MORNING = dt.datetime(2026, 1, 16, 6, 0, tzinfo=dt.UTC)


def test_at_night_a_mail_waits_until_the_morning_of_the_persons_own_clock(
    rollout: Rollout,
) -> None:
    user = person()
    quiet(user, "daily 22:00-07:00", "Europe/Zurich")
    waiting = notice(user, rollout, NIGHT)
    send(NIGHT)
    send(MORNING - MINUTE)
    assert not mail.outbox
    waiting.refresh_from_db()
    assert waiting.mail_at == MORNING
    send(MORNING)
    assert len(mail.outbox) == 1


def test_a_mail_that_failed_in_the_evening_does_not_go_at_night(
    rollout: Rollout, settings: Settings
) -> None:
    user = person()
    quiet(user, "daily 22:00-07:00", "UTC")
    evening = NIGHT.replace(hour=21, minute=59)
    notice(user, rollout, evening)
    away(settings)
    send(evening)
    here(settings)
    send(evening + 2 * MINUTE)
    assert not mail.outbox
    send(MORNING + 60 * MINUTE)
    assert len(mail.outbox) == 1


def test_who_is_asleep_does_not_hold_back_others(rollout: Rollout) -> None:
    for number in range(notices.mails.PEOPLE):
        sleeper = person(f"sleeper-{number}")
        quiet(sleeper, "daily 22:00-07:00", "UTC")
        notice(sleeper, rollout, NIGHT)
    notice(person(), rollout, NIGHT)
    send(NIGHT)
    send(NIGHT)
    assert [sent.to for sent in mail.outbox] == [["ada@example.org"]]


# Failures


def away(settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = ports.HOST, ports.free()


def here(settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


def test_while_the_mail_server_is_away_mails_wait_longer_and_longer(
    rollout: Rollout, now: dt.datetime, settings: Settings
) -> None:
    waiting = notice(person(), rollout, now)
    away(settings)
    pauses_seen = []
    for _ in range(pauses.MOST):
        send(now)
        waiting.refresh_from_db()
        assert waiting.mail_at
        pauses_seen.append(int((waiting.mail_at - now) / MINUTE))
        now = waiting.mail_at
    assert pauses_seen == [1, 5, 30, 120, 360, 720]
    here(settings)
    send(now)
    assert len(mail.outbox) == 1


def test_a_mail_is_given_up_after_a_day_and_the_log_says_so(
    rollout: Rollout, now: dt.datetime, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = notice(person(), rollout, now)
    away(settings)
    for _ in range(pauses.MOST + 1):
        send(now)
        now += dt.timedelta(days=1)
    waiting.refresh_from_db()
    assert waiting.mail_at is None
    assert "1 notices to ada are given up" in caplog.text
    assert "ada@example.org" not in caplog.text


def test_one_who_is_refused_does_not_hold_back_others(
    rollout: Rollout, now: dt.datetime, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = PICKY
    refused = notice(person("unknown"), rollout, now)
    notice(person(), rollout, now)
    send(now)
    assert [sent.to for sent in mail.outbox] == [["ada@example.org"]]
    refused.refresh_from_db()
    assert (refused.mailed_at, refused.mail_at) == (None, now + MINUTE)


def test_what_a_killed_worker_had_taken_goes_again(
    rollout: Rollout, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice(person(), rollout, now)
    with monkeypatch.context() as patched:
        patched.setattr(EmailBackend, "send_messages", _die)
        with pytest.raises(KeyboardInterrupt):
            send(now)
    send(now + MINUTE)
    assert not mail.outbox
    send(now + 6 * MINUTE)
    assert len(mail.outbox) == 1


def test_a_worker_that_is_asked_to_end_leaves_the_rest_to_the_next_round(
    rollout: Rollout, now: dt.datetime
) -> None:
    for name in ("ada", "bob", "eve"):
        notice(person(name), rollout, now)
    send(now, is_ending=True)
    assert len(mail.outbox) == 1
    send(now)
    assert len(mail.outbox) == 3


def _die(*_: object) -> int:
    raise KeyboardInterrupt


def test_a_round_costs_the_same_however_many_notices_a_person_has(
    rollout: Rollout, now: dt.datetime
) -> None:
    def cost(user: User, count: int) -> int:
        for _ in range(count):
            notice(user, rollout, now)
        with CaptureQueriesContext(connection) as found:
            send(now)
        return len(found)

    assert cost(person("few"), 1) == cost(person("many"), 60)
