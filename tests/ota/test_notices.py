"""What becomes news, and who hears of it."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Organization
from ota import notices, rollouts
from ota.models import News, Notice, Preference, Rollout, RolloutEvent, WebhookDelivery
from ota.models.notices import Kind, Whose
from ota.notices import telling
from ota.states import RolloutStatus, TaskStatus
from tests.make import make_dock, make_organization, make_package, make_rollout, make_task
from tests.make import make_webhook as webhook

pytestmark = pytest.mark.django_db

RODS_OPEN = 312023  # somebody has to go there
BUSY = 312015


@pytest.fixture
def now() -> dt.datetime:
    return timezone.now()


def person(name: str, *codenames: str, **fields: Any) -> User:
    user = User.objects.create_user(name, f"{name}@example.org", is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


@pytest.fixture
def author() -> User:
    return person("author", "view_rollout")


@pytest.fixture
def colleague() -> User:
    return person("colleague", "view_rollout")


def happen(rollout: Rollout, kind: str, text: str = "") -> RolloutEvent:
    return RolloutEvent.objects.create(rollout=rollout, at=timezone.now(), kind=kind, text=text)


def told(user: User) -> list[str]:
    """What a person sees in the console, by kind."""
    return list(user.notices.filter(is_shown=True).values_list("news__kind", flat=True))


def hears(user: User, kind: str, now: dt.datetime) -> bool:
    notices.tell(now)
    return kind in told(user)


# What is told to whom


def test_the_author_hears_of_start_and_end_and_colleagues_do_not(
    author: User, colleague: User, now: dt.datetime
) -> None:
    rollout = make_rollout(created_by=author)
    happen(rollout, "started")
    happen(rollout, "finished")
    notices.tell(now)
    assert told(author) == ["finished", "started"]
    assert told(colleague) == []


@pytest.mark.parametrize("kind", ["stopped", "needs_approval", "wave_waiting"])
def test_the_author_hears_of_what_holds_the_rollout_back(
    author: User, kind: str, now: dt.datetime
) -> None:
    happen(make_rollout(created_by=author), kind)
    assert hears(author, kind, now)


def test_everybody_who_may_look_hears_that_a_rollout_paused_by_itself(
    colleague: User, now: dt.datetime
) -> None:
    happen(make_rollout(), "stopped", "3 upgrades failed; at most 2 may. Look at 7CTDK1.")
    assert hears(colleague, "stopped", now)
    assert "Look at 7CTDK1" in News.objects.get().text


def test_those_who_may_approve_hear_that_an_approval_is_needed_and_others_do_not(
    colleague: User, now: dt.datetime
) -> None:
    approver = person("approver", "view_rollout", "approve_rollout")
    happen(make_rollout(), "needs_approval")
    assert hears(approver, "needs_approval", now)
    assert not told(colleague)


@pytest.mark.parametrize(
    "stranger",
    [{"is_staff": False}, {"is_active": False}],
    ids=["outside the console", "switched off"],
)
def test_who_cannot_use_the_console_hears_nothing(
    author: User, stranger: dict[str, bool], now: dt.datetime
) -> None:
    User.objects.filter(pk=author.pk).update(**stranger)
    happen(make_rollout(created_by=author), "stopped")
    assert not hears(author, "stopped", now)


def test_an_author_who_may_not_view_rollouts_any_more_hears_nothing(
    author: User, now: dt.datetime
) -> None:
    author.user_permissions.clear()
    happen(make_rollout(created_by=author), "stopped")
    assert not hears(author, "stopped", now)


def test_a_pause_by_hand_is_no_news(author: User, now: dt.datetime) -> None:
    rollout = make_rollout(created_by=author)
    rollouts.pause(rollout, now, author)
    notices.tell(now)
    assert not News.objects.exists()


def test_an_approval_tells_the_author_that_it_has_started(author: User, now: dt.datetime) -> None:
    rollout = make_rollout(created_by=author, status=RolloutStatus.NEEDS_APPROVAL)
    rollouts.approve(rollout, now, person("chief", "approve_rollout"))
    assert hears(author, "started", now)
    assert "was approved by chief and has started" in News.objects.get().title


def test_a_rollout_that_starts_later_says_when(author: User, now: dt.datetime) -> None:
    starts = dt.datetime(2099, 5, 4, 22, 0, tzinfo=dt.UTC)
    happen(make_rollout(name="Spring", created_by=author, starts_at=starts), "started")
    notices.tell(now)
    assert News.objects.get().title == "Spring starts at 2099-05-04 22:00 UTC"


def test_a_later_start_is_told_on_the_clock_of_this_installation(
    author: User, now: dt.datetime
) -> None:
    starts = dt.datetime(2099, 5, 4, 22, 0, tzinfo=dt.UTC)
    happen(make_rollout(name="Spring", created_by=author, starts_at=starts), "started")
    with timezone.override("Europe/Zurich"):
        notices.tell(now)
    assert News.objects.get().title == "Spring starts at 2099-05-05 00:00 CEST"


def test_the_end_tells_how_the_upgrades_ended(author: User, now: dt.datetime) -> None:
    rollout = make_rollout(created_by=author)
    make_task(rollout=rollout, status=TaskStatus.OK)
    make_task(rollout=rollout, status=TaskStatus.FAILED)
    happen(rollout, "finished")
    notices.tell(now)
    assert News.objects.get().text == "1 proven, 1 failed"


def test_a_canceled_rollout_is_not_said_to_have_finished(now: dt.datetime) -> None:
    happen(make_rollout(name="Spring", status=RolloutStatus.CANCELED), "finished")
    notices.tell(now)
    assert News.objects.get().title == "Spring was canceled and has ended"


def test_a_dock_that_needs_a_person_on_site_is_told_with_what_to_do(
    colleague: User, now: dt.datetime
) -> None:
    task = make_task(status=TaskStatus.FAILED, result=RODS_OPEN, finished_at=now)
    assert hears(colleague, "on_site", now)
    news = News.objects.get()
    assert task.gateway.sn in news.title
    assert str(RODS_OPEN) in news.text
    assert news.path == f"/admin/ota/upgradetask/{task.pk}/change/"


@pytest.mark.parametrize(
    "fields",
    [
        {"result": BUSY},
        {"result": None},
        {"result": RODS_OPEN, "resolved_at": timezone.now()},
        {"result": RODS_OPEN, "finished_at": timezone.now() - dt.timedelta(days=2)},
    ],
    ids=["another remedy", "no result", "dismissed", "long ago"],
)
def test_another_failure_is_no_reason_to_go_there(fields: dict[str, Any], now: dt.datetime) -> None:
    make_task(status=TaskStatus.FAILED, **{"finished_at": now} | fields)
    notices.tell(now)
    assert not News.objects.exists()


def test_a_damaged_package_is_told_to_those_who_may_see_packages(
    author: User, now: dt.datetime
) -> None:
    keeper = person("keeper", "view_firmwarepackage")
    notices.damaged(make_package(), "its MD5 is another one", now)
    assert hears(keeper, "damaged", now)
    assert not told(author)


# Once, whatever happens


@pytest.mark.everywhere
def test_each_thing_is_told_once_however_often_the_clock_ticks(
    author: User, now: dt.datetime
) -> None:
    rollout = make_rollout(created_by=author)
    happen(rollout, "stopped")
    make_task(rollout=rollout, status=TaskStatus.FAILED, result=RODS_OPEN, finished_at=now)
    for _ in range(3):
        notices.tell(now)
    assert sorted(told(author)) == ["on_site", "stopped"]


def test_a_tick_that_died_in_the_middle_loses_nothing(
    author: User, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    happen(make_rollout(created_by=author), "stopped")
    monkeypatch.setattr(telling, "_deliveries", _die)
    with pytest.raises(KeyboardInterrupt):
        notices.tell(now)
    assert not told(author)
    monkeypatch.undo()
    assert hears(author, "stopped", now)


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_old_news_and_deliveries_are_removed(author: User, now: dt.datetime) -> None:
    organization = make_organization()
    webhook(organization)
    rollout = make_rollout(created_by=author)
    make_task(make_dock(organization=organization), rollout=rollout)
    happen(rollout, "stopped")
    notices.tell(now)
    notices.forget(now + telling.KEPT_DELIVERIES - dt.timedelta(hours=1))
    assert WebhookDelivery.objects.count() == Notice.objects.count() == 1
    notices.forget(now + telling.KEPT_DELIVERIES + dt.timedelta(hours=1))
    assert (WebhookDelivery.objects.count(), Notice.objects.count()) == (0, 1)
    notices.forget(now + telling.KEPT + dt.timedelta(hours=1))
    assert not News.objects.exists()


# What people chose


def choose(user: User, **fields: Any) -> Preference:
    nothing = dict.fromkeys(Kind.values, Whose.NONE)
    return Preference.objects.create(user=user, **{"console": nothing, "email": nothing} | fields)


def test_who_chose_nothing_of_a_kind_does_not_hear_of_it(author: User, now: dt.datetime) -> None:
    choose(author)
    happen(make_rollout(created_by=author), "stopped")
    assert not hears(author, "stopped", now)


def test_who_chose_all_hears_of_others_rollouts(colleague: User, now: dt.datetime) -> None:
    choose(colleague, console={"finished": Whose.ALL})
    happen(make_rollout(), "finished")
    assert hears(colleague, "finished", now)


def test_a_choice_for_one_organization_goes_before_the_general_one(
    colleague: User, now: dt.datetime
) -> None:
    near, far = make_organization(), make_organization()
    choose(colleague, console={"stopped": Whose.ALL})
    choose(colleague, organization=far)
    for organization in (near, far):
        rollout = make_rollout(name=str(organization))
        make_task(make_dock(organization=organization), rollout=rollout)
        happen(rollout, "stopped")
    notices.tell(now)
    assert [n.news.rollout for n in colleague.notices.all()] == [Rollout.objects.get(name=near)]


def test_who_wants_it_by_mail_only_does_not_see_it_under_the_bell(
    author: User, now: dt.datetime, settings: Settings
) -> None:
    settings.SENDS_EMAIL = True
    choose(author, email={"stopped": Whose.MINE})
    happen(make_rollout(created_by=author), "stopped")
    notices.tell(now)
    assert not told(author)
    assert author.notices.get().mail_at


# Webhooks


def test_a_webhook_gets_the_kinds_it_wants_of_its_organizations_docks(now: dt.datetime) -> None:
    mine = webhook(make_organization(), kinds=["stopped"])
    webhook(make_organization())
    rollout = make_rollout()
    make_task(make_dock(organization=mine.organization), rollout=rollout)
    happen(rollout, "stopped")
    happen(rollout, "finished")
    notices.tell(now)
    delivery = WebhookDelivery.objects.get()
    assert (delivery.webhook, delivery.news.kind) == (mine, "stopped")


def texts(organization: Organization) -> dict[str, str]:
    """What the system of an organization is told, by the kind of news."""
    sent = WebhookDelivery.objects.filter(webhook__organization=organization)
    return {delivery.news.kind: delivery.text for delivery in sent.select_related("news")}


def test_a_rollout_of_several_organizations_tells_each_of_its_own_docks(now: dt.datetime) -> None:
    mine, theirs = webhook(make_organization(name="Mine")), webhook(make_organization())
    rollout = make_rollout()
    failed: dict[str, Any] = {"status": TaskStatus.FAILED, "finished_at": now}
    ours = make_task(make_dock(organization=mine.organization), rollout=rollout, **failed)
    for number in range(3):
        secret = make_dock(organization=theirs.organization, sn=f"7CTDKSECRET{number}")
        make_task(secret, rollout=rollout, **failed if number else {})
    for kind in ("started", "needs_approval", "stopped", "wave_waiting", "finished"):
        happen(rollout, kind, "4 docks; 3 of 4 failed. Look at 7CTDKSECRET1.")
    notices.tell(now)
    told = texts(mine.organization)
    assert told["started"] == told["needs_approval"] == "1 dock of Mine"
    assert told["finished"] == "1 failed"
    assert told["stopped"] == (
        f"nothing more is sent; 1 of 1 finished upgrades of Mine failed. Look at {ours.gateway.sn}."
    )
    assert texts(theirs.organization)["finished"] == "1 pending, 2 failed"


def test_a_rollout_of_one_organization_tells_it_everything(now: dt.datetime) -> None:
    mine = webhook(make_organization())
    rollout = make_rollout()
    make_task(make_dock(organization=mine.organization), rollout=rollout)
    happen(rollout, "stopped", "package X is damaged: too short")
    notices.tell(now)
    assert texts(mine.organization) == {"stopped": "package X is damaged: too short"}


def test_a_webhook_that_is_switched_off_gets_nothing(now: dt.datetime) -> None:
    off = webhook(make_organization(), is_active=False)
    make_task(make_dock(organization=off.organization), rollout=(rollout := make_rollout()))
    happen(rollout, "stopped")
    notices.tell(now)
    assert not WebhookDelivery.objects.exists()


def test_a_damaged_package_goes_to_every_organization(now: dt.datetime) -> None:
    webhook(make_organization())
    webhook(make_organization())
    notices.damaged(make_package(), "its MD5 is another one", now)
    notices.tell(now)
    assert WebhookDelivery.objects.count() == 2


# Costs


def cost(now: dt.datetime) -> int:
    with CaptureQueriesContext(connection) as found:
        notices.tell(now)
    # SQLite inserts row by row, in one prepared statement.
    return len([q for q in found if not q["sql"].startswith("INSERT")])


def test_a_tick_costs_the_same_for_one_thing_and_for_many(now: dt.datetime) -> None:
    organization, other = make_organization(), make_organization()
    webhook(organization)

    def happen_often(times: int) -> None:
        for number in range(times):
            person(f"person-{times}-{number}", "view_rollout")
            rollout = make_rollout()
            dock = make_dock(organization=organization)
            make_task(
                dock, rollout=rollout, status=TaskStatus.FAILED, result=RODS_OPEN, finished_at=now
            )
            make_task(make_dock(organization=other), rollout=rollout)
            happen(rollout, "stopped")
            happen(rollout, "finished")

    happen_often(1)
    few = cost(now)
    happen_often(12)
    assert cost(now) == few


def test_ten_thousand_events_are_told_in_a_few_ticks(author: User, now: dt.datetime) -> None:
    rollout = make_rollout(created_by=author)
    RolloutEvent.objects.bulk_create(
        RolloutEvent(rollout=rollout, at=now, kind="stopped") for _ in range(10_000)
    )
    for _ in range(10_000 // telling.MOST):
        notices.tell(now)
    assert author.notices.count() == 10_000
