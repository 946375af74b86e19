"""The bell, the list of notices, what people choose, and the webhooks' pages."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from ota.admin.notice_forms import PreferenceForm
from ota.models import News, Notice, Preference, Rollout, Webhook, WebhookDelivery
from ota.models.notices import Kind
from ota.notices import bell
from tests.make import make_organization, make_rollout, make_webhook
from tests.people import queries, text, told

pytestmark = pytest.mark.django_db

LIST = "/admin/ota/notice/"
BELL = f"{LIST}bell/"
CHOICES = f"{LIST}settings/"
HOOKS = "/admin/ota/webhook/"
LOG = "/admin/ota/webhookdelivery/"


def person(name: str, *codenames: str) -> User:
    user = User.objects.create_user(name, f"{name}@example.org", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def ada() -> User:
    return person("ada", "view_rollout", "view_organization")


@pytest.fixture
def rollout() -> Rollout:
    return make_rollout(name="Spring")


def notice(
    user: User, rollout: Rollout, title: str = "Spring has paused by itself", **fields: Any
) -> Notice:
    now = timezone.now()
    news = News.objects.create(kind="stopped", at=now, rollout=rollout, title=title, told_at=now)
    return Notice.objects.create(user=user, news=news, at=now, **fields)


# The bell


def test_each_page_says_how_many_notices_are_new(ada: User, rollout: Rollout) -> None:
    notice(ada, rollout)
    notice(ada, rollout)
    notice(ada, rollout, read_at=timezone.now())
    page = text(browser(ada).get("/admin/"))
    assert '<span class="bell-count" data-unread aria-hidden="true">2</span>' in page
    assert '<span class="bell-said" data-said>Notices, 2 new</span>' in page


def test_without_news_the_bell_has_no_number(ada: User) -> None:
    page = text(browser(ada).get("/admin/"))
    assert '<span class="bell-count" data-unread aria-hidden="true" hidden></span>' in page
    assert '<span class="bell-said" data-said>Notices</span>' in page


def test_more_notices_than_the_bell_counts_are_told_as_so_many_and_more(
    ada: User, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "COUNTED", 2)
    for _ in range(3):
        notice(ada, rollout)
    page = text(browser(ada).get("/admin/"))
    assert 'data-unread aria-hidden="true">2+</span>' in page
    assert "Notices, 2+ new" in page
    assert 'data-count="2+"' in text(browser(ada).get(BELL))


def test_under_the_bell_hang_the_newest_notices_and_no_script(ada: User, rollout: Rollout) -> None:
    for number in range(9):
        notice(ada, rollout, f"<script>No. {number}")
    page = text(browser(ada).get(BELL))
    assert 'data-count="9"' in page
    assert "No. 8" in page
    assert "No. 2" not in page
    assert "<script>" not in page


def test_nobody_sees_the_notices_of_others(ada: User, rollout: Rollout) -> None:
    theirs = notice(person("bob"), rollout)
    client = browser(ada)
    assert 'data-count=""' in text(client.get(BELL))
    assert "Spring" not in text(client.get(LIST))
    assert client.get(f"{LIST}{theirs.pk}/open/").status_code == 404
    assert client.get(f"{LIST}{theirs.pk}/change/").status_code in {302, 403, 404}
    client.post(f"{LIST}read/")
    client.post(LIST, {"action": "mark_read", "_selected_action": [theirs.pk]})
    theirs.refresh_from_db()
    assert theirs.read_at is None


def test_who_is_not_logged_in_is_sent_to_the_login(client: Client) -> None:
    for url in (LIST, BELL, CHOICES):
        assert client.get(url)["Location"].startswith("/admin/login/")


def test_following_a_notice_reads_it(ada: User, rollout: Rollout) -> None:
    mine = notice(ada, rollout)
    response = browser(ada).get(f"{LIST}{mine.pk}/open/")
    assert response["Location"] == f"/admin/ota/rollout/{rollout.pk}/change/"
    mine.refresh_from_db()
    assert mine.read_at


def test_all_are_read_with_one_click_and_not_by_a_link(ada: User, rollout: Rollout) -> None:
    notice(ada, rollout)
    notice(ada, rollout)
    client = browser(ada)
    assert "Nothing was done" in text(client.get(f"{LIST}read/", follow=True))
    assert not Notice.objects.exclude(read_at=None).exists()
    assert told(client.post(f"{LIST}read/")) == "2 marked as read."
    assert 'data-count=""' in text(client.get(BELL))


def test_one_is_read_with_the_action(ada: User, rollout: Rollout) -> None:
    first, second = notice(ada, rollout), notice(ada, rollout)
    browser(ada).post(LIST, {"action": "mark_read", "_selected_action": [first.pk]})
    assert [n.pk for n in ada.notices.filter(read_at=None)] == [second.pk]


def test_bell_and_list_cost_the_same_for_few_notices_and_for_many(
    ada: User, rollout: Rollout
) -> None:
    client = browser(ada)
    notice(ada, rollout)
    few = [queries(client, url) for url in (BELL, LIST, "/admin/")]
    for _ in range(45):
        notice(ada, rollout)
    assert [queries(client, url) for url in (BELL, LIST, "/admin/")] == few


# What people choose


def choices(**fields: str) -> dict[str, str]:
    """What a browser sends: nothing is wanted unless it is named."""
    names = [f"{channel}_{kind}" for channel in ("console", "email") for kind in Kind.values]
    return dict.fromkeys(names, "none") | {"quiet_hours": "", "time_zone": "UTC"} | fields


def test_somebody_chooses_what_to_hear(ada: User) -> None:
    answer = browser(ada).post(
        CHOICES,
        choices(
            console_stopped="all",
            email_finished="mine",
            quiet_hours="daily 22:00-07:00",
            time_zone="Europe/Zurich",
        ),
    )
    assert told(answer) == "Saved."
    chosen = Preference.objects.get(user=ada, organization=None)
    assert (chosen.console["stopped"], chosen.email["finished"]) == ("all", "mine")
    assert chosen.console["started"] == "none"
    assert (chosen.quiet_hours, chosen.time_zone) == ("daily 22:00-07:00", "Europe/Zurich")


@pytest.mark.parametrize("is_general", [True, False])
def test_the_first_choices_that_are_sent_twice_at_once_are_kept_once(
    ada: User, is_general: bool
) -> None:
    organization = None if is_general else make_organization()
    sent = [choices(console_stopped=whose) for whose in ("mine", "all")]
    for form in [PreferenceForm(ada, organization, said) for said in sent]:
        assert form.is_valid()
        form.save()
    assert Preference.objects.get(user=ada, organization=organization).console["stopped"] == "all"


def test_somebody_chooses_otherwise_for_one_organization_and_back(ada: User) -> None:
    acme = make_organization(name="Acme")
    client = browser(ada)
    there = f"{CHOICES}?organization={acme.pk}"
    client.post(there, choices(console_stopped="mine"))
    assert Preference.objects.get(user=ada, organization=acme).console["stopped"] == "mine"
    assert not Preference.objects.filter(organization=None).exists()
    client.post(there, {"forget": "1"})
    assert not Preference.objects.exists()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"quiet_hours": "at night"}, "is no window"),
        ({"quiet_hours": "daily 00:00-24:00"}, "never end"),
        ({"time_zone": "Mars/Olympus"}, "is no time zone"),
        ({"console_stopped": "everything"}, "Select a valid choice"),
    ],
)
def test_a_wrong_choice_is_named(ada: User, fields: dict[str, str], error: str) -> None:
    assert error in text(browser(ada).post(CHOICES, choices(**fields)))
    assert not Preference.objects.exists()


def test_an_organization_that_does_not_exist_or_may_not_be_seen_is_not_found(ada: User) -> None:
    acme = make_organization()
    assert browser(ada).get(f"{CHOICES}?organization=0").status_code == 404
    assert browser(ada).get(f"{CHOICES}?organization=x").status_code == 404
    bob = browser(person("bob"))
    assert bob.get(f"{CHOICES}?organization={acme.pk}").status_code == 404
    assert bob.get(CHOICES).status_code == 200


def test_the_page_says_why_no_mail_comes(ada: User, settings: Settings) -> None:
    client = browser(ada)
    assert "EMAIL_URL is not set" in text(client.get(CHOICES))
    settings.SENDS_EMAIL = True
    assert "No e-mail" not in text(client.get(CHOICES))
    User.objects.filter(pk=ada.pk).update(email="")
    assert "your account has no address" in text(client.get(CHOICES))


# Webhooks


@pytest.fixture
def keeper() -> Client:
    return browser(
        person(
            "keeper",
            *("view_webhook", "add_webhook", "change_webhook", "view_webhookdelivery"),
            "view_organization",
        )
    )


def hook_form(**fields: Any) -> dict[str, Any]:
    values = {"url": "https://hooks.example.org/fleet", "kinds": ["stopped"], "is_active": "on"}
    return values | fields


def test_the_secret_is_shown_when_the_webhook_is_made_and_never_again(keeper: Client) -> None:
    response = keeper.post(f"{HOOKS}add/", hook_form(organization=make_organization().pk))
    hook = Webhook.objects.get()
    assert hook.secret in text(response)
    assert "no-store" in response["Cache-Control"]
    for url in (HOOKS, f"{HOOKS}{hook.pk}/change/", f"{HOOKS}{hook.pk}/history/", LOG):
        assert hook.secret not in text(keeper.get(url))
    assert hook.secret not in str(keeper.cookies) + str(dict(keeper.session))


def test_a_new_secret_replaces_the_old_one(keeper: Client) -> None:
    hook = make_webhook(make_organization())
    url = f"{HOOKS}{hook.pk}/secret/"
    old = hook.secret
    assert keeper.get(url)["Location"] == f"{HOOKS}{hook.pk}/change/"
    hook.refresh_from_db()
    assert hook.secret == old
    response = keeper.post(url)
    hook.refresh_from_db()
    assert hook.secret != old
    assert hook.secret in text(response)


def test_who_may_only_look_makes_no_new_secret(keeper: Client) -> None:
    hook = make_webhook(make_organization())
    viewer = browser(person("viewer", "view_webhook"))
    assert viewer.post(f"{HOOKS}{hook.pk}/secret/").status_code == 403
    assert "New secret" not in text(viewer.get(f"{HOOKS}{hook.pk}/change/"))
    assert browser(person("nobody")).get(HOOKS).status_code == 403


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"url": "https://127.0.0.1/"}, "not an address of the public internet"),
        ({"url": "http://hooks.example.org/"}, "Only https:// is taken"),
        ({"url": "hooks"}, "is no address such as"),
        ({"kinds": ["rain"]}, "Select a valid choice"),
        ({"kinds": []}, "This field is required"),
        ({"organization": ""}, "This field is required"),
    ],
)
def test_a_wrong_webhook_is_refused_with_the_reason(
    keeper: Client, fields: dict[str, Any], error: str
) -> None:
    values = {"organization": make_organization().pk} | fields
    assert error in text(keeper.post(f"{HOOKS}add/", hook_form(**values)))
    assert not Webhook.objects.exists()


def test_an_organization_has_an_address_once(keeper: Client) -> None:
    hook = make_webhook(make_organization())
    answer = keeper.post(f"{HOOKS}add/", hook_form(organization=hook.organization_id))
    assert "has a webhook with this address already" in text(answer)


def delivery(hook: Webhook, rollout: Rollout, **fields: Any) -> WebhookDelivery:
    now = timezone.now()
    news = News.objects.create(kind="stopped", at=now, rollout=rollout, title="Stop", told_at=now)
    return WebhookDelivery.objects.create(webhook=hook, news=news, created_at=now, **fields)


def test_the_log_says_what_became_of_a_delivery(keeper: Client, rollout: Rollout) -> None:
    gone = delivery(
        make_webhook(make_organization()),
        rollout,
        status="failed",
        http_code=503,
        error="the receiver answered 503",
        response="<b>sorry",
        attempts=7,
    )
    assert "the receiver answered 503" in text(keeper.get(LOG))
    page = text(keeper.get(f"{LOG}{gone.pk}/change/"))
    assert "&lt;b&gt;sorry" in page
    assert str(gone.pk) in page


def test_what_was_given_up_is_sent_again(keeper: Client, rollout: Rollout) -> None:
    resting = timezone.now() + dt.timedelta(hours=1)
    hook = make_webhook(make_organization(), rests_until=resting)
    gone = delivery(hook, rollout, status="failed", attempts=7)
    data = {"action": "send_again", "_selected_action": [str(gone.pk)]}
    assert told(keeper.post(LOG, data)) == "1 will be sent now."
    gone.refresh_from_db()
    hook.refresh_from_db()
    assert (gone.status, gone.attempts, hook.rests_until) == ("pending", 0, None)
    assert gone.next_at


def test_nothing_is_sent_again_to_a_webhook_that_is_switched_off(
    keeper: Client, rollout: Rollout
) -> None:
    hooks = [make_webhook(make_organization(), is_active=is_on) for is_on in (True, False)]
    sent, left = (delivery(hook, rollout, status="failed", attempts=7) for hook in hooks)
    data = {"action": "send_again", "_selected_action": [str(sent.pk), str(left.pk)]}
    assert told(keeper.post(LOG, data)) == (
        "1 will be sent now. 1 was left out, as its webhook is not active. Tick “Active” there first."
    )
    sent.refresh_from_db()
    left.refresh_from_db()
    assert (sent.status, left.status, left.attempts) == ("pending", "failed", 7)


def test_nothing_is_said_to_be_sent_where_all_is_left_out(keeper: Client, rollout: Rollout) -> None:
    gone = delivery(make_webhook(make_organization(), is_active=False), rollout, status="failed")
    data = {"action": "send_again", "_selected_action": [str(gone.pk)]}
    assert "will be sent" not in told(keeper.post(LOG, data))


def test_who_may_only_look_sends_nothing_again(rollout: Rollout) -> None:
    gone = delivery(make_webhook(make_organization()), rollout, status="failed")
    viewer = browser(person("viewer", "view_webhookdelivery"))
    viewer.post(LOG, {"action": "send_again", "_selected_action": [str(gone.pk)]})
    gone.refresh_from_db()
    assert gone.status == "failed"


def test_webhooks_and_their_log_cost_the_same_for_few_and_for_many(
    keeper: Client, rollout: Rollout
) -> None:
    def cost() -> list[int]:
        return [queries(keeper, url) for url in (HOOKS, LOG)]

    for _ in range(2):
        delivery(make_webhook(make_organization()), rollout)
    few = cost()
    for _ in range(15):
        delivery(make_webhook(make_organization()), rollout)
    assert cost() == few
