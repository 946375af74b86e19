"""A rollout's page: its policy, waves, history and failures, and the buttons for what operators do."""

import datetime as dt
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ota import rollouts, rows
from ota.admin.rollout_forms import FORMS
from ota.admin.rollout_verbs import VERBS
from ota.models import Rollout, RolloutEvent, UpgradeTask, Wave
from ota.rollouts import FIELDS
from ota.states import TaskStatus
from tests.make import make_failed, make_rollout, make_task, make_wave
from tests.people import queries, staff, text, told

pytestmark = pytest.mark.django_db

S, R = TaskStatus, Rollout.Status
LIMITS = {"limit_in_flight": 3, "expected_minutes": 45, "failed_after": 10, "jitter_seconds": 0}
HUGE = "9" * 40
GATES = {"gate_first": 100, "gate": 95, "soak_minutes": 0}


@pytest.fixture
def operator() -> Client:
    return staff("view_rollout", "view_upgradetask", "upgrade_devices")


@pytest.fixture
def approver() -> Client:
    return staff("view_rollout", "approve_rollout")


def page(client: Client, rollout: Rollout, query: str = "") -> str:
    return text(client.get(reverse("admin:ota_rollout_change", args=[rollout.pk]) + query))


def press(client: Client, rollout: Rollout, verb: str, **said: Any) -> Any:
    return client.post(reverse(f"admin:ota_rollout_{verb}", args=[rollout.pk]), said)


def confirmation(client: Client, rollout: Rollout, verb: str) -> dict[str, str]:
    """What the form beside a button sends along."""
    address = reverse(f"admin:ota_rollout_{verb}", args=[rollout.pk])
    form = page(client, rollout).split(f'<form method="post" action="{address}">')[1]
    hidden = r'<input type="hidden" name="(\w+)" value="([^"]*)">'
    return dict(re.findall(hidden, form.split("</form>")[0]))


def status(row: Rollout | UpgradeTask) -> str:
    row.refresh_from_db()
    return row.status


def in_two_waves(**fields: Any) -> Rollout:
    """The first is open with a task that runs."""
    rollout = make_rollout(waves="1, rest", **fields)
    make_task(rollout=rollout, status=S.IN_PROGRESS)
    make_task(rollout=rollout, wave=make_wave(rollout, 2, opened_at=None))
    return rollout


# Who may


@pytest.mark.parametrize("verb", VERBS)
def test_who_may_only_look_presses_nothing(verb: str) -> None:
    rollout = make_rollout()
    assert press(staff("view_rollout"), rollout, verb).status_code == 403
    assert not rollout.events.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_link_does_nothing(operator: Client, verb: str) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    response = operator.get(reverse(f"admin:ota_rollout_{verb}", args=[rollout.pk]))
    assert response["Location"] == reverse("admin:ota_rollout_change", args=[rollout.pk])
    assert status(rollout) == R.NEEDS_APPROVAL
    assert not rollout.events.exists()


def test_who_has_to_log_in_after_a_press_is_told_that_nothing_was_done() -> None:
    rollout, client = make_rollout(), Client()
    User.objects.create_superuser("root", password="secret")
    login = press(client, rollout, "pause")["Location"]
    response = client.post(login, {"username": "root", "password": "secret"}, follow=True)
    assert response.redirect_chain[-1][0] == reverse("admin:ota_rollout_change", args=[rollout.pk])
    assert "Nothing was done: press the button again." in text(response)
    assert status(rollout) == R.RUNNING


def test_who_may_only_look_sees_no_button(operator: Client) -> None:
    rollout = in_two_waves()
    make_failed(rollout)
    assert 'class="ota-cancel"' not in page(staff("view_rollout"), rollout)
    assert 'class="ota-small"' not in page(staff("view_rollout", "view_device"), rollout)
    assert "Open wave 2" in page(operator, rollout)


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_an_operator_who_may_not_approve_is_refused(operator: Client, verb: str) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    assert press(operator, rollout, verb).status_code == 403
    assert status(rollout) == R.NEEDS_APPROVAL
    assert "Approve it" not in page(operator, rollout)


# Approval


def test_a_second_person_approves_with_a_remark(approver: Client) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    assert "Approve it" in page(approver, rollout)
    press(approver, rollout, "approve", remark="Weather is fine")
    assert status(rollout) == R.RUNNING
    assert "Weather is fine" in page(approver, rollout)


@pytest.mark.everywhere
@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_remark_is_kept_without_what_no_database_takes(approver: Client, verb: str) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    press(approver, rollout, verb, remark="Not\x00 before\r\nMonday\x1b ")
    rollout.refresh_from_db()
    assert rollout.remark == "Not before Monday"


def test_a_second_person_denies_and_the_second_press_says_so(approver: Client) -> None:
    task = make_task(rollout=make_rollout(status=R.NEEDS_APPROVAL))
    press(approver, task.rollout, "deny", remark="Not today")
    assert (status(task.rollout), status(task)) == (R.CANCELED, S.CANCELED)
    assert "does not wait for approval" in told(press(approver, task.rollout, "deny"))


def test_the_author_sees_no_button_to_approve_and_is_refused(approver: Client) -> None:
    author = User.objects.get(username="view_rollout-approve_rollout")
    rollout = make_rollout(status=R.NEEDS_APPROVAL, created_by=author)
    assert "Approve it" not in page(approver, rollout)
    assert press(approver, rollout, "approve").status_code == 403
    assert status(rollout) == R.NEEDS_APPROVAL


# What the page showed


CHANGED = "has changed since it was looked at. Please look at it once more."


def paused_anew(rollout: Rollout) -> None:
    now = timezone.now()
    rollouts.resume(rollout, now)
    rollouts.stop(rollout, rollout.pause_reason, now)


def changed(rollout: Rollout, **fields: Any) -> None:
    rollouts.change(rollout, fields, timezone.now())


LATER = timezone.now() + dt.timedelta(days=9)
DECISIONS: list[Callable[[Rollout], None]] = [
    partial(changed, limit_in_flight=1000),
    partial(changed, windows="daily 22:00-05:00"),
    partial(changed, starts_at=LATER),
    partial(changed, deadline_at=LATER),
]


@pytest.mark.parametrize("decide", DECISIONS)
def test_what_was_changed_is_approved_only_after_it_was_shown(
    approver: Client, decide: Callable[[Rollout], None]
) -> None:
    rollout = make_rollout(status=R.NEEDS_APPROVAL)
    seen = confirmation(approver, rollout, "approve")
    decide(rollout)
    assert CHANGED in told(press(approver, rollout, "approve", **seen))
    assert status(rollout) == R.NEEDS_APPROVAL
    assert not LogEntry.objects.exists()
    press(approver, rollout, "approve", **confirmation(approver, rollout, "approve"))
    assert status(rollout) == R.RUNNING


@pytest.mark.parametrize("decide", [*DECISIONS, paused_anew])
def test_what_was_changed_or_paused_anew_is_resumed_only_after_it_was_shown(
    operator: Client, decide: Callable[[Rollout], None]
) -> None:
    rollout = make_rollout(status=R.PAUSED, pause_reason="3 failed")
    seen = confirmation(operator, rollout, "resume")
    decide(rollout)
    assert CHANGED in told(press(operator, rollout, "resume", **seen))
    assert status(rollout) == R.PAUSED
    press(operator, rollout, "resume", **confirmation(operator, rollout, "resume"))
    assert status(rollout) == R.RUNNING


def test_the_progress_of_its_upgrades_keeps_nobody_from_resuming(operator: Client) -> None:
    rollout = make_rollout(status=R.PAUSED, pause_reason="3 failed")
    running, failed = make_task(rollout=rollout, status=S.IN_PROGRESS), make_failed(rollout)
    seen = confirmation(operator, rollout, "resume")
    UpgradeTask.objects.move([running.pk], S.FAILED, timezone.now())
    rollouts.dismiss(rollout, timezone.now(), pks=[failed.pk])
    assert "Resumed" in told(press(operator, rollout, "resume", **seen))


def test_the_second_press_on_an_old_page_says_what_the_first_has_done(
    operator: Client, approver: Client
) -> None:
    paused, waiting = make_rollout(status=R.PAUSED), make_rollout(status=R.NEEDS_APPROVAL)
    seen = confirmation(operator, paused, "resume")
    press(operator, paused, "resume", **seen)
    assert "It is not paused." in told(press(operator, paused, "resume", **seen))
    seen = confirmation(approver, waiting, "approve")
    press(approver, waiting, "approve", **seen)
    assert "does not wait for approval" in told(press(approver, waiting, "approve", **seen))


# Waves


def test_the_next_wave_opens_once_however_often_it_is_pressed(operator: Client) -> None:
    rollout = in_two_waves()
    make_wave(rollout, 3, opened_at=None)
    assert "Wave 2 is open." in told(press(operator, rollout, "open-wave", wave=2))
    assert "Wave 2 is open already" in told(press(operator, rollout, "open-wave", wave=2))
    assert list(rollout.wave_set.filter(opened_at=None).values_list("number", flat=True)) == [3]


@pytest.mark.parametrize("wave", ["", "x", "9" * 40, "-1"])
def test_a_wave_that_is_no_number_opens_nothing(operator: Client, wave: str) -> None:
    rollout = in_two_waves()
    assert "Nothing was opened" in told(press(operator, rollout, "open-wave", wave=wave))
    assert rollout.wave_set.filter(opened_at=None).exists()


def test_a_paused_rollout_opens_no_wave_and_says_why(operator: Client) -> None:
    rollout = in_two_waves(status=R.PAUSED)
    why = told(press(operator, rollout, "open-wave", wave=2))
    assert "is paused, not running. Resume it first." in why
    assert "Wave 2 can be opened by hand after that" in page(operator, rollout)
    assert "Open next wave" not in page(operator, rollout)


def says(rollout: Rollout, number: int = 2) -> str:
    return str(rows.of_waves(rollout)[number - 1]["says"])


def test_a_closed_wave_says_what_it_waits_for() -> None:
    rollout = in_two_waves()
    assert says(rollout) == "waits for wave 1: 1 of 1 are not finished"
    rollout.tasks.filter(wave__number=1).update(status=S.FAILED)
    assert says(rollout) == "waits for wave 1: 0 % of the finished are proven, 100 % must be"


def test_a_wave_whose_gate_is_met_waits_for_a_click_or_the_soak_time() -> None:
    rollout = in_two_waves(soak_minutes=30)
    met_at = dt.datetime(2026, 5, 5, 12, tzinfo=dt.UTC)
    Wave.objects.filter(rollout=rollout, number=1).update(met_at=met_at)
    assert says(rollout) == "opens on 2026-05-05 12:30 UTC"
    rollout.asks_between_waves = True
    assert says(rollout) == "waits for a click"


def test_a_wave_behind_one_that_was_canceled_whole_waits_for_a_click() -> None:
    rollout = in_two_waves()
    rollout.tasks.filter(wave__number=1).update(status=S.CANCELED)
    told = "waits for a click: nothing of wave 1 was proven, because all of it was canceled"
    assert says(rollout) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"status": R.NEEDS_APPROVAL}, "waits for approval"),
        (
            {"starts_at": dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC)},
            "opens on 2099-01-01 21:00 UTC",
        ),
        ({"status": R.CANCELED}, "was never opened"),
        ({"status": R.PAUSED}, "waits until the rollout is resumed"),
        (
            {"status": R.PAUSED, "starts_at": dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC)},
            "waits until the rollout is resumed",
        ),
        ({}, "opens at once"),
    ],
)
def test_the_first_wave_says_what_it_waits_for(fields: dict[str, Any], told: str) -> None:
    rollout = make_rollout(**fields)
    rollout.wave_set.update(opened_at=None)
    assert says(rollout, 1) == told


def test_later_waves_wait_for_the_ones_before_and_for_the_pause_to_end() -> None:
    rollout = in_two_waves(status=R.PAUSED)
    make_wave(rollout, 3, opened_at=None)
    assert says(rollout, 2) == "waits until the rollout is resumed"
    assert says(rollout, 3) == "comes after wave 2"


# What failed


def test_failures_stand_on_the_page_until_somebody_has_settled_them(operator: Client) -> None:
    task = make_failed(message="The link broke.")
    assert "The link broke." in page(operator, task.rollout)
    press(operator, task.rollout, "dismiss", task=task.pk)
    assert 'aria-label="Needs attention" data-live="attention" hidden' in page(
        operator, task.rollout
    )


def test_one_failure_is_retried_and_the_second_press_says_so(operator: Client) -> None:
    rollout = make_rollout()
    first, second = make_failed(rollout), make_failed(rollout)
    assert "Planned 1 upgrade again." in told(press(operator, rollout, "retry", task=first.pk))
    assert "Nothing was planned again" in told(press(operator, rollout, "retry", task=first.pk))
    assert not UpgradeTask.objects.filter(retry_of=second).exists()


@pytest.mark.parametrize(
    ("busy", "named"),
    [(1, "not {0}: another"), (7, "not {0}, {1}, {2}, {3}, {4} and 2 more: another")],
)
def test_a_retry_names_the_docks_that_it_leaves_out_because_another_upgrade_of_them_is_open(
    operator: Client, busy: int, named: str
) -> None:
    rollout = make_rollout()
    left_out = [make_failed(rollout) for _ in range(busy)]
    for task in left_out:
        make_task(task.gateway)
    again = make_failed(rollout)
    words = named.format(*(task.gateway.sn for task in left_out))
    reply = told(press_all(operator, rollout, "retry"))
    assert f"Planned 1 upgrade again; {words} upgrade is open." in reply
    assert UpgradeTask.objects.get(retry_of__isnull=False).retry_of == again
    reply = told(press(operator, rollout, "retry", task=left_out[0].pk))
    assert f"Nothing was planned again; not {left_out[0].gateway.sn}: another upgrade" in reply


def press_all(client: Client, rollout: Rollout, verb: str) -> Any:
    return press(client, rollout, verb, **confirmation(client, rollout, verb))


def test_all_failures_are_retried_or_dismissed_together(operator: Client) -> None:
    rollout = make_rollout()
    make_failed(rollout)
    make_failed(rollout)
    assert "Planned 2 upgrades again." in told(press_all(operator, rollout, "retry"))
    other = make_failed().rollout
    make_failed(other)
    seen = confirmation(operator, other, "dismiss")
    assert "Dismissed 2 failed upgrades." in told(press(operator, other, "dismiss", **seen))
    assert "Nothing was dismissed" in told(press(operator, other, "dismiss", **seen))


def test_what_failed_after_the_page_is_neither_retried_nor_dismissed_with_the_rest(
    operator: Client,
) -> None:
    rollout = make_rollout()
    first, second = make_failed(rollout), make_failed(rollout)
    seen = confirmation(operator, rollout, "retry")
    later = make_failed(rollout)
    assert "Planned 2 upgrades again." in told(press(operator, rollout, "retry", **seen))
    seen = confirmation(operator, rollout, "dismiss")
    latest = make_failed(rollout)
    assert "Dismissed 1 failed upgrade." in told(press(operator, rollout, "dismiss", **seen))
    retried = UpgradeTask.objects.filter(retried_as__isnull=False)
    assert set(retried) == {first, second}
    assert set(UpgradeTask.objects.needing_attention()) == {latest}
    assert status(later) == S.FAILED


@pytest.mark.parametrize("verb", ["retry", "dismiss"])
def test_a_failure_that_came_in_behind_those_shown_is_not_taken_for_one_of_them(
    operator: Client, verb: str
) -> None:
    """One that was stored late ended before the newest shown, and one of these is settled meanwhile."""
    rollout = make_rollout()
    settled, shown = make_failed(rollout), make_failed(rollout)
    seen = confirmation(operator, rollout, verb)
    late = make_failed(rollout, finished_at=timezone.now() - dt.timedelta(minutes=5))
    rollouts.dismiss(rollout, timezone.now(), pks=[settled.pk])
    assert " 1 " in told(press(operator, rollout, verb, **seen))
    assert list(UpgradeTask.objects.needing_attention()) == [late]
    shown.refresh_from_db()
    assert shown.resolved_at


@pytest.mark.parametrize("seen", [{"task": "x"}, {"task": f"{HUGE},²"}, {"task": ""}, {}])
@pytest.mark.parametrize("verb", ["retry", "dismiss"])
def test_a_page_that_showed_no_failure_settles_none(
    operator: Client, seen: dict[str, str], verb: str
) -> None:
    rollout = make_failed().rollout
    assert "Nothing was " in told(press(operator, rollout, verb, **seen))
    assert UpgradeTask.objects.needing_attention().exists()


def test_a_task_of_another_rollout_is_not_touched(operator: Client) -> None:
    rollout, stranger = make_rollout(), make_failed()
    press(operator, rollout, "retry", task=stranger.pk)
    press(operator, rollout, "dismiss", task="x")
    assert not UpgradeTask.objects.filter(retry_of=stranger).exists()


def test_a_canceled_rollout_offers_no_retry_and_refuses_one(operator: Client) -> None:
    task = make_failed(make_rollout(status=R.CANCELED))
    assert "Retry" not in page(operator, task.rollout)
    assert "was canceled; start another one" in told(press(operator, task.rollout, "retry"))


def test_a_tasks_page_retries_it_and_leads_to_the_new_task(operator: Client) -> None:
    task = make_failed()
    address = reverse("admin:ota_upgradetask_change", args=[task.pk])
    assert "Retry it" in text(operator.get(address))
    reply = press(operator, task.rollout, "retry", task=task.pk, back="task")
    assert reply.headers["Location"] == address
    new = UpgradeTask.objects.get(retry_of=task)
    assert reverse("admin:ota_upgradetask_change", args=[new.pk]) in text(operator.get(address))
    assert "Retry it" not in text(operator.get(address))


# What was chosen


def test_the_page_tells_the_policy_in_words(operator: Client) -> None:
    rollout = make_rollout(
        waves="1, 10%, rest", gate=90, asks_between_waves=True, limit_per_site=2, max_failed=3
    )
    rollout.windows = "Mon-Fri 22:00-05:00"
    rollout.save()
    shown = page(operator, rollout)
    for words in (
        "1, 10%, rest",
        "100 % of the first proven, 90 % of later ones, after a click",
        "20 docks at most, 2 of a site",
        "above 3 failures, or above 20 % failures of at least 10 finished",
        "Mon-Fri 22:00-05:00, on each site&#x27;s clock, with 45 min left",
    ):
        assert words in shown


def test_a_deadline_is_moved_and_taken_away(operator: Client) -> None:
    rollout = make_rollout()
    press(operator, rollout, "extend", deadline_at="2099-01-01T12:00")
    rollout.refresh_from_db()
    assert rollout.deadline_at == dt.datetime(2099, 1, 1, 12, tzinfo=dt.UTC)
    assert "it is so already" in told(
        press(operator, rollout, "extend", deadline_at="2099-01-01T12:00")
    )
    press(operator, rollout, "extend", deadline_at="")
    rollout.refresh_from_db()
    assert rollout.deadline_at is None


@pytest.mark.parametrize(
    ("deadline", "why"),
    [
        ("2001-01-01T00:00", "The deadline has passed already."),
        ("soon", "Enter a valid date/time."),
        ("9999-12-31T23:59", "This year is out of the question."),
    ],
)
def test_a_deadline_that_cannot_be_is_refused_at_its_field(
    operator: Client, deadline: str, why: str
) -> None:
    rollout = make_rollout()
    reply = press(operator, rollout, "extend", deadline_at=deadline)
    assert "Nothing was changed" in told(reply)
    shown = text(operator.get(reply.headers["Location"]))
    assert why in shown
    assert f'value="{deadline}"' in shown


def test_limits_are_changed_while_it_runs(operator: Client) -> None:
    rollout = make_rollout()
    said = LIMITS | {"limit_per_site": 1, "max_failed_percent": "", "windows": "daily 22:00-05:00"}
    press(operator, rollout, "limits", **said)
    rollout.refresh_from_db()
    assert (rollout.limit_in_flight, rollout.limit_per_site) == (3, 1)
    assert rollout.windows == "daily 22:00-05:00"
    assert rollout.max_failed_percent is None
    assert rollout.events.get().kind == RolloutEvent.Kind.CHANGED


def test_all_that_can_be_changed_has_a_form() -> None:
    shown = {name for form in FORMS for name in form.base_fields}
    by_button = {"keeps_open"}
    assert shown | by_button == {*FIELDS, "name", "starts_at", "deadline_at"} - {"waves"}


def test_a_gate_is_lowered_after_it_has_stopped_the_rollout(operator: Client) -> None:
    rollout = in_two_waves(status=R.PAUSED)
    assert "Change gates" in page(operator, rollout)
    press(operator, rollout, "gates", **GATES | {"gate_first": 60}, asks_between_waves="on")
    rollout.refresh_from_db()
    assert (rollout.gate_first, rollout.asks_between_waves) == (60, True)
    assert [wave.gate for wave in rollout.wave_set.order_by("number")] == [60, 95]


def test_gates_that_cannot_be_are_refused_at_their_field(operator: Client) -> None:
    rollout = in_two_waves()
    reply = press(operator, rollout, "gates", **GATES | {"gate": 101})
    assert "less than or equal to 100" in text(operator.get(reply.headers["Location"]))


def test_one_wave_has_no_gates_to_change(operator: Client) -> None:
    assert "Change gates" not in page(operator, make_task().rollout)


def test_a_rollout_gets_another_name(operator: Client) -> None:
    rollout = make_rollout(name="Autum")
    press(operator, rollout, "rename", name="Autumn")
    rollout.refresh_from_db()
    assert rollout.name == "Autumn"
    assert "Nothing was changed" in told(press(operator, rollout, "rename", name=""))


def test_the_start_is_moved_while_the_first_wave_is_closed(operator: Client) -> None:
    rollout = make_rollout(starts_at=dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC))
    rollout.wave_set.update(opened_at=None)
    times = {"starts_at": "2099-01-02T21:00", "deadline_at": "2099-01-01T12:00"}
    reply = press(operator, rollout, "extend", **times)
    assert "The deadline is before the start." in text(operator.get(reply.headers["Location"]))
    press(operator, rollout, "extend", **times | {"deadline_at": ""})
    rollout.refresh_from_db()
    assert rollout.starts_at == dt.datetime(2099, 1, 2, 21, tzinfo=dt.UTC)


SET = dt.datetime(2099, 1, 1, 21, 0, 30, tzinfo=dt.UTC)
SHOWN = {"starts_at": "2099-01-01T21:00", "initial-starts_at": "2099-01-01T21:00"}
UNSHOWN = {"starts_at": "", "initial-starts_at": ""}


@pytest.mark.parametrize("start", [SHOWN, UNSHOWN, {}], ids=["shown", "set since", "not asked"])
def test_who_sets_a_deadline_leaves_the_start_alone(
    operator: Client, start: dict[str, str]
) -> None:
    """The page shows no seconds, and may be older than the start, or than the field for it."""
    rollout = make_rollout(starts_at=SET)
    rollout.wave_set.update(opened_at=None)
    assert 'name="initial-starts_at"' in page(operator, rollout)
    deadline = {"deadline_at": "2099-01-03T21:00", "initial-deadline_at": ""}
    press(operator, rollout, "extend", **deadline, **start)
    rollout.refresh_from_db()
    assert (rollout.starts_at, rollout.deadline_at) == (
        SET,
        dt.datetime(2099, 1, 3, 21, tzinfo=dt.UTC),
    )


def test_who_empties_the_start_that_was_shown_starts_at_once(operator: Client) -> None:
    rollout = make_rollout(starts_at=SET)
    rollout.wave_set.update(opened_at=None)
    press(operator, rollout, "extend", **SHOWN | {"starts_at": ""}, deadline_at="")
    rollout.refresh_from_db()
    assert rollout.starts_at is None


def test_what_was_sent_and_refused_is_a_change_still(operator: Client) -> None:
    rollout = make_rollout(starts_at=SET)
    rollout.wave_set.update(opened_at=None)
    times = {"deadline_at": "2098-01-01T12:00", "initial-deadline_at": ""}
    reply = press(operator, rollout, "extend", **SHOWN, **times)
    again = text(operator.get(reply.headers["Location"]))
    assert re.search(r'name="initial-deadline_at"(?! value)', again)
    assert 'name="deadline_at" value="2098-01-01T12:00"' in again


def test_the_start_of_what_has_started_stays(operator: Client) -> None:
    rollout = make_rollout(starts_at=timezone.now())
    press(operator, rollout, "extend", starts_at="2099-01-02T21:00", deadline_at="")
    started = rollout.starts_at
    rollout.refresh_from_db()
    assert rollout.starts_at == started
    assert 'name="starts_at"' not in page(operator, rollout)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"limit_in_flight": 0}, "greater than or equal to 1"),
        ({"windows": "Mon 99:00-05:00"}, "has a time that is none"),
        ({"windows": "Mon 10:00-10:05"}, "nothing would ever start"),
        ({"max_failed_percent": 101}, "less than or equal to 100"),
    ],
)
def test_limits_that_cannot_be_are_refused_at_their_field(
    operator: Client, said: dict[str, Any], why: str
) -> None:
    rollout = make_rollout()
    reply = press(operator, rollout, "limits", **LIMITS | said)
    shown = text(operator.get(reply.headers["Location"]))
    assert why in shown
    assert f'value="{next(iter(said.values()))}"' in shown
    rollout.refresh_from_db()
    assert (rollout.limit_in_flight, rollout.windows, rollout.max_failed_percent) == (20, "", 20)


def test_a_rollout_that_has_ended_is_not_changed(operator: Client) -> None:
    rollout = make_rollout(status=R.FINISHED, finished_at=timezone.now())
    assert "has ended" in told(press(operator, rollout, "limits", **LIMITS))
    assert "Change limits" not in page(operator, rollout)


def test_every_button_for_a_rollout_works_once(operator: Client) -> None:
    shown = page(operator, in_two_waves(keeps_open=True))
    verbs = shown.split('data-live="verbs"')[1].split(">Report</a>")[0]
    buttons = re.findall(r"<button type=\"submit\"[^>]*>", verbs)
    assert len(buttons) == 8
    assert all("data-once" in button for button in buttons)


def test_canceling_twice_says_so(operator: Client) -> None:
    rollout = make_task().rollout
    press(operator, rollout, "cancel")
    assert "It is canceled already." in told(press(operator, rollout, "cancel"))


def test_a_rollout_that_has_ended_meanwhile_is_not_canceled_and_not_said_to_be(
    operator: Client,
) -> None:
    rollout = make_task(status=S.OK, finished_at=timezone.now()).rollout
    Rollout.objects.update(status=R.FINISHED, finished_at=timezone.now())
    reply = press(operator, rollout, "cancel")
    assert told(reply) == "It has ended; nothing of it is left to cancel."
    assert status(rollout) == R.FINISHED
    assert not LogEntry.objects.exists()


def test_one_failure_is_spoken_of_as_one(operator: Client) -> None:
    task = make_failed()
    shown = page(operator, task.rollout)
    assert "It is planned again and issued as soon as nothing blocks it." in shown
    assert "It stays failed and leaves this list." in shown
    make_failed(task.rollout)
    shown = page(operator, task.rollout)
    assert "All 2 are planned again and issued as soon as nothing blocks them." in shown
    assert "They stay failed and leave this list." in shown


@pytest.mark.parametrize("verb", ["retry", "dismiss"])
def test_one_upgrade_is_one_in_the_history(operator: Client, verb: str) -> None:
    press_all(operator, make_failed().rollout, verb)
    assert RolloutEvent.objects.get().text == "1 upgrade"


def test_one_canceled_upgrade_is_counted_as_one(operator: Client) -> None:
    press(operator, make_task().rollout, "cancel")
    assert LogEntry.objects.get().change_message == "Called off 1 upgrade that waited."
    assert RolloutEvent.objects.get().text == "1 upgrade was called off"


def test_what_was_done_stands_in_the_history_and_the_record(operator: Client) -> None:
    rollout = make_rollout()
    press(operator, rollout, "pause")
    press(operator, rollout, "pause")
    assert "by itself" not in page(operator, rollout).split('aria-label="History"')[1]
    assert LogEntry.objects.get().change_message == "Paused."


# Cost


def test_the_page_costs_the_same_for_few_and_many_waves_failures_and_events(
    operator: Client,
) -> None:
    rollout = make_rollout()
    address = reverse("admin:ota_rollout_change", args=[rollout.pk])

    def grow(start: int, number: int) -> None:
        for each in range(start, start + number):
            make_failed(rollout, wave=make_wave(rollout, each))
            RolloutEvent.objects.create(rollout=rollout, at=timezone.now(), kind="changed")

    grow(2, 2)
    few = queries(operator, address)
    grow(4, 60)
    assert queries(operator, address) == few
    assert "and 12 more" in page(operator, rollout)
