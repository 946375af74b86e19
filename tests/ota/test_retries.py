"""Which failures lead to another attempt, when, and what late words of the last one do to it."""

import datetime as dt
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from pytest_django import Settings

from fleet.models import Device
from mqtt_bridge import pipeline, publisher, router
from mqtt_bridge.client import Outcome
from ota.models import FirmwarePackage, Rollout, UpgradeTask
from ota.states import PackageState, TaskStatus
from ota.upgrades import issue, limits, retries
from tests.make import (
    envelope,
    make_dock,
    make_listening,
    make_rollout,
    make_task,
    progress,
    received,
)

pytestmark = pytest.mark.django_db

WAIT, RETRY, FIX = 312015, 312002, 312003
NEVER = (312030, 312016, 312022, 312010, 312001, 399999)


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What went to the broker."""
    router.discover()
    make_listening()
    sent: list[Any] = []

    def publish(messages: Any) -> list[Outcome]:
        sent.extend(messages)
        return [Outcome.CONFIRMED] * len(messages)

    monkeypatch.setattr(publisher, "connect", lambda: None)
    monkeypatch.setattr(publisher, "publish", publish)
    return sent


def say(task: UpgradeTask, kind: str, message: dict[str, Any]) -> dict[str, Any]:
    pipeline.process([received(f"thing/product/{task.gateway.sn}/{kind}", message)])
    task.refresh_from_db()
    return message


def fail(task: UpgradeTask, code: int, **fields: Any) -> dict[str, Any]:
    data = progress("failed", 60, result=code)
    return say(task, "events", envelope(data, "ota_progress", bid=task.bid, **fields))


def go_on(task: UpgradeTask) -> dict[str, Any]:
    return say(task, "events", envelope(progress(), "ota_progress", bid=task.bid))


def reply(task: UpgradeTask, result: int, tid: str = "") -> dict[str, Any]:
    ids = {"bid": task.bid, "tid": tid or task.tid}
    return say(task, "services_reply", envelope({"result": result}, "ota_create", **ids))


def running(**fields: Any) -> UpgradeTask:
    return make_task(status=TaskStatus.IN_PROGRESS, **fields)


def pause(task: UpgradeTask) -> float:
    assert task.not_before
    return (task.not_before - task.status_at).total_seconds()


def send_again(task: UpgradeTask) -> None:
    """The pause is over."""
    now = timezone.now()
    UpgradeTask.objects.filter(pk=task.pk).update(not_before=None)
    Device.objects.update(last_seen_at=now)
    assert issue.issue([task.pk], timezone.now()) == 1
    task.refresh_from_db()


# Groups


@pytest.mark.parametrize("tried", [0, 1, 3, 7])
def test_what_passes_by_itself_is_waited_for_longer_each_time(tried: int) -> None:
    task = running(retries=tried, attempt=tried + 1)
    fail(task, WAIT)
    assert (task.status, task.retries) == (TaskStatus.PENDING, tried + 1)
    planned = min(retries.LONGEST_PAUSE, settings.WAIT_PAUSE * 2**tried)
    assert 0.8 * planned <= pause(task) <= 1.2 * planned


@pytest.mark.parametrize("tried", [0, 1])
def test_what_may_go_well_next_time_is_tried_again(tried: int) -> None:
    task = running(retries=tried, attempt=tried + 1)
    fail(task, RETRY)
    assert task.status == TaskStatus.PENDING
    assert 0.8 * settings.RETRY_PAUSE <= pause(task) <= 1.2 * settings.RETRY_PAUSE


@pytest.mark.parametrize(("code", "tried"), [(WAIT, 8), (RETRY, 2), (FIX, 1)])
def test_after_the_last_attempt_the_failure_stays_and_needs_somebody(code: int, tried: int) -> None:
    task = running(retries=tried, attempt=tried + 1)
    fail(task, code)
    assert (task.status, task.result) == (TaskStatus.FAILED, code)
    assert list(UpgradeTask.objects.needing_attention()) == [task]


@pytest.mark.parametrize("code", NEVER)
def test_what_needs_hands_is_never_tried_again(code: int) -> None:
    task = running()
    fail(task, code)
    assert (task.status, task.retries) == (TaskStatus.FAILED, 0)


@pytest.mark.parametrize("code", [WAIT, RETRY])
def test_a_refusal_is_retried_like_a_failure(code: int) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    reply(task, code)
    assert (task.status, task.retries, task.result) == (TaskStatus.PENDING, 1, code)


def test_an_upgrade_that_a_dock_cancels_is_retried_like_a_failure() -> None:
    task = running()
    data = progress("canceled", 60, result=RETRY)
    say(task, "events", envelope(data, "ota_progress", bid=task.bid))
    assert (task.status, task.retries, task.result) == (TaskStatus.PENDING, 1, RETRY)


def test_after_a_bad_package_its_bytes_are_checked_first(commands: list[Any]) -> None:
    task = running()
    fail(task, FIX)
    package = FirmwarePackage.objects.get()
    assert (task.status, package.state) == (TaskStatus.PENDING, PackageState.CHECKING)
    UpgradeTask.objects.update(not_before=None)
    issue.issue([task.pk], timezone.now())
    task.refresh_from_db()
    assert "package_unavailable" in [reason["code"] for reason in task.waits_for]
    FirmwarePackage.objects.update(state=PackageState.AVAILABLE)
    send_again(task)
    assert len(commands) == 1


@pytest.mark.parametrize("code", [312003, 312017, 312026])
def test_the_history_of_a_package_that_is_checked_for_a_failure_says_for_which(code: int) -> None:
    task = running()
    fail(task, code)
    fail(running(), code)
    (line,) = FirmwarePackage.objects.get().events.all()
    assert line.text.startswith(f"checked anew: the upgrade of {task.gateway} failed, {code}: ")


def test_silence_that_proved_nothing_is_tried_again_and_the_hard_limit_is_not() -> None:
    long_ago = timezone.now() - dt.timedelta(minutes=95)
    silent = make_task(status=TaskStatus.VERIFYING, status_at=long_ago)
    Device.objects.update(firmware_seen_at=timezone.now() + dt.timedelta(seconds=1))
    endless = make_task(make_dock(mode_code=3), status=TaskStatus.PAUSED, sent_at=long_ago)
    limits.enforce(timezone.now())
    silent.refresh_from_db()
    endless.refresh_from_db()
    assert (silent.status, endless.status) == (TaskStatus.PENDING, TaskStatus.TIMEOUT)


def test_a_failure_of_a_canceled_rollout_is_not_tried_again() -> None:
    task = running(rollout=make_rollout(status=Rollout.Status.CANCELED))
    fail(task, RETRY)
    assert task.status == TaskStatus.FAILED


def test_a_failure_for_which_the_deadline_leaves_no_time_stays_one() -> None:
    soon = timezone.now() + dt.timedelta(seconds=100)
    task = running(rollout=make_rollout(deadline_at=soon))
    fail(task, RETRY)
    assert task.status == TaskStatus.FAILED


# Another attempt


def test_another_attempt_keeps_the_bid_and_has_a_new_tid() -> None:
    task = running()
    first = (task.bid, task.tid)
    fail(task, WAIT)
    send_again(task)
    assert task.bid == first[0]
    assert task.tid != first[1]
    assert (task.status, task.percent, task.replied_at) == (TaskStatus.SENT, None, None)


def test_a_task_that_rests_says_until_when() -> None:
    task = running()
    fail(task, WAIT)
    at_once = task.waits_for
    issue.look_again(timezone.now())
    task.refresh_from_db()
    assert [reason["code"] for reason in task.waits_for] == ["not_yet"]
    assert "pause after a failure" in task.waits_for[0]["text"]
    assert at_once == task.waits_for
    assert task.due_at == task.not_before


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_failure_that_comes_twice_does_not_end_the_next_attempt(*, is_answered: bool) -> None:
    task = running()
    message = fail(task, WAIT)
    say(task, "events", message)
    assert (task.status, task.retries) == (TaskStatus.PENDING, 1)
    send_again(task)
    if is_answered:
        reply(task, 0)
    say(task, "events", message)
    assert (task.status, task.retries) == (TaskStatus.SENT, 1)


def test_another_word_of_the_old_failure_does_not_end_the_next_attempt() -> None:
    task = running()
    fail(task, WAIT)
    fail(task, WAIT)
    assert task.retries == 1
    send_again(task)
    fail(task, WAIT)
    assert (task.status, task.retries) == (TaskStatus.SENT, 1)


def test_replies_to_the_attempt_that_failed_change_nothing() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    taken = reply(task, 0)
    go_on(task)
    fail(task, WAIT)
    say(task, "services_reply", taken)
    reply(task, 0)
    reply(task, WAIT)
    assert (task.status, task.retries) == (TaskStatus.PENDING, 1)
    send_again(task)
    say(task, "services_reply", taken)
    assert (task.status, task.replied_at) == (TaskStatus.SENT, None)


def refused_and_then_unanswered() -> tuple[UpgradeTask, str]:
    """A third command is under way; with the ``tid`` of the second, which nobody has answered."""
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    reply(task, WAIT)
    send_again(task)
    second = task.tid
    UpgradeTask.objects.update(sent_at=timezone.now() - dt.timedelta(seconds=40))
    limits.enforce(timezone.now())
    send_again(task)
    assert (task.attempt, task.retries) == (3, 1)
    return task, second


def test_a_late_yes_to_a_command_since_the_last_refusal_is_followed() -> None:
    task, second = refused_and_then_unanswered()
    reply(task, 0, second)
    reply(task, 312014)
    assert (task.status, task.retries) == (TaskStatus.SENT, 1)
    assert task.replied_at


def test_a_late_yes_to_a_command_before_the_last_refusal_does_not_take_the_next() -> None:
    task, second = refused_and_then_unanswered()
    reply(task, WAIT)
    send_again(task)
    reply(task, 0, second)
    assert (task.status, task.retries, task.replied_at) == (TaskStatus.SENT, 2, None)


def test_a_dock_that_goes_on_after_its_pause_is_followed() -> None:
    task = running()
    fail(task, WAIT)
    go_on(task)
    assert (task.status, task.retries) == (TaskStatus.IN_PROGRESS, 1)
    fail(task, WAIT)
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_a_success_that_is_told_during_the_pause_has_to_be_proved() -> None:
    task = running()
    fail(task, WAIT)
    say(task, "events", envelope(progress("ok", 100), "ota_progress", bid=task.bid))
    assert task.status == TaskStatus.VERIFYING


# Already upgrading


def send_once_more(task: UpgradeTask) -> None:
    """Nobody has answered the last command in time."""
    UpgradeTask.objects.update(sent_at=timezone.now() - dt.timedelta(seconds=40))
    limits.enforce(timezone.now())
    send_again(task)


def sent(times: int = 1) -> UpgradeTask:
    """So many commands that nobody has answered."""
    task = make_task()
    send_again(task)
    for _ in range(times - 1):
        send_once_more(task)
    return task


@pytest.fixture
def patient(settings: Settings) -> None:
    """Each failure is tried again, and what nobody answers too."""
    settings.SEND_ATTEMPTS = settings.RETRIES = 10


ALREADY = 312014


def test_already_upgrading_after_an_unanswered_command_is_followed() -> None:
    task = sent(2)
    reply(task, ALREADY)
    assert task.status == TaskStatus.SENT
    assert task.replied_at


@pytest.mark.usefixtures("patient")
def test_it_is_also_if_the_command_before_that_one_was_refused_late() -> None:
    task = sent()
    first = task.tid
    send_once_more(task)
    reply(task, WAIT, first)
    send_once_more(task)
    reply(task, ALREADY)
    assert (task.status, task.retries) == (TaskStatus.SENT, 0)
    assert task.replied_at


@pytest.mark.usefixtures("patient")
def test_it_is_also_if_that_is_the_late_answer_to_a_command_before_the_last() -> None:
    task = sent(2)
    second = task.tid
    send_once_more(task)
    reply(task, ALREADY, second)
    assert task.replied_at
    reply(task, ALREADY)
    assert (task.status, task.retries) == (TaskStatus.SENT, 0)


@pytest.mark.usefixtures("patient")
def test_it_is_also_after_a_dock_that_failed_twice_with_one_command() -> None:
    task = sent()
    for _ in range(2):
        go_on(task)
        fail(task, RETRY)
    send_again(task)
    send_once_more(task)
    assert (task.attempt, task.retries) == (3, 2)
    reply(task, ALREADY)
    assert (task.status, task.retries) == (TaskStatus.SENT, 2)
    assert task.replied_at


@pytest.mark.usefixtures("patient")
def test_a_command_that_did_not_go_out_is_none_that_nobody_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = sent(2)
    reply(task, WAIT)
    send_again(task)
    with monkeypatch.context() as away:
        away.setattr(publisher, "publish", lambda _: [Outcome.UNSENT])
        send_once_more(task)
    assert (task.status, task.attempt) == (TaskStatus.PENDING, 3)
    reply(task, ALREADY)
    assert task.replied_at is None


def test_already_upgrading_after_a_refusal_is_waited_for() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=2, retries=1)
    reply(task, 312014)
    assert (task.status, task.retries) == (TaskStatus.PENDING, 2)


def test_a_retry_that_nobody_answers_goes_out_once_more_like_any_command() -> None:
    old = timezone.now() - dt.timedelta(seconds=40)
    task = make_task(status=TaskStatus.SENT, replied_at=None, sent_at=old, attempt=2, retries=1)
    limits.enforce(timezone.now())
    task.refresh_from_db()
    assert (task.status, task.retries) == (TaskStatus.PENDING, 1)
    assert "goes out again" in task.message
