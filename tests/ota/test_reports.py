"""Replies and progress, in any dialect, order and number."""

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from fleet.models import Device
from mqtt_bridge import pipeline, router
from ota.models import ForeignUpgrade, TaskEvent, UpgradeTask
from ota.states import TaskStatus
from tests.make import envelope, make_dock, make_task, progress, received

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def handlers() -> None:
    router.discover()


# The next failure of such a task is its last.
TRIED = 100


def report(task: UpgradeTask, data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    message = envelope(data, "ota_progress", **{"bid": task.bid} | fields)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/events", message)])
    task.refresh_from_db()
    return message


def reply(task: UpgradeTask, result: int, status: str = "", **fields: Any) -> None:
    data = {"result": result, "output": {"status": status}} if status else {"result": result}
    message = envelope(data, "ota_create", **{"bid": task.bid, "tid": task.tid} | fields)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/services_reply", message)])
    task.refresh_from_db()


def ago(seconds: float) -> int:
    return int((timezone.now() - dt.timedelta(seconds=seconds)).timestamp() * 1000)


def test_a_dock_that_takes_the_command_is_in_progress() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    reply(task, 0, "in_progress")
    assert task.status == TaskStatus.IN_PROGRESS
    assert task.replied_at


def test_a_refusal_ends_the_task_with_its_result_and_advice() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, retries=TRIED)
    reply(task, 312015, "rejected")
    assert (task.status, task.result) == (TaskStatus.REJECTED, 312015)
    assert task.advice
    assert "idle" in task.advice


def test_already_upgrading_on_the_first_command_is_waited_for() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    reply(task, 312014)
    assert (task.status, task.result) == (TaskStatus.PENDING, 312014)
    assert task.not_before


def test_a_refusal_of_an_earlier_attempt_does_not_end_a_later_one() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=2)
    reply(task, 312015, tid="another")
    assert task.status == TaskStatus.SENT


def test_the_reply_of_another_dock_changes_nothing() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    stranger = make_dock()
    message = envelope({"result": 312015}, "ota_create", bid=task.bid, tid=task.tid)
    pipeline.process([received(f"thing/product/{stranger.sn}/services_reply", message)])
    task.refresh_from_db()
    assert task.status == TaskStatus.SENT
    assert not task.events.exists()


@pytest.mark.parametrize(
    ("step", "known"),
    [
        ({"step_key": "download_firmware"}, "download_firmware"),
        ({"current_step": "upgrade_firmware"}, "upgrade_firmware"),
        ({"current_step": 1}, "download_firmware"),
        ({"current_step": "2"}, "upgrade_firmware"),
        ({"current_step": "polish_rotors"}, "polish_rotors"),
        ({}, ""),
    ],
)
def test_every_dialect_of_progress_is_understood(step: dict[str, Any], known: str) -> None:
    task = make_task(status=TaskStatus.SENT)
    output = {"status": "in_progress", "progress": {"percent": 27} | step, "ext": {"rate": 1843200}}
    report(task, {"result": 0, "output": output})
    assert (task.status, task.percent, task.step) == (TaskStatus.IN_PROGRESS, 27, known)
    assert task.rate == 1843200


def test_ok_is_not_proof() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, progress("ok", 100, "upgrade_firmware"))
    assert task.status == TaskStatus.VERIFYING
    assert task.device_ok_at


def test_ok_with_an_error_is_a_failure() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, retries=TRIED)
    report(task, progress("ok", 100, result=312016))
    assert (task.status, task.result) == (TaskStatus.FAILED, 312016)


def test_an_error_while_in_progress_is_shown_and_ends_nothing() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, progress("in_progress", 30, result=312015))
    assert task.status == TaskStatus.IN_PROGRESS
    assert "312015" in task.message


@pytest.mark.parametrize(
    ("said", "status"),
    [(one, one) for one in ("failed", "rejected", "timeout")] + [("canceled", "failed")],
)
def test_each_unsuccessful_end_of_the_device_ends_the_task_and_needs_somebody(
    said: str, status: str
) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, retries=TRIED)
    report(task, progress(said, 31, result=312016))
    assert (task.status, task.needs_attention) == (status, True)
    assert task.finished_at


def test_an_upgrade_that_its_dock_cancels_is_none_that_was_called_off_before_its_command() -> None:
    reported, answered = (make_task(status=TaskStatus.SENT, replied_at=None) for _ in range(2))
    report(reported, progress("canceled", 31))
    reply(answered, 0, "canceled")
    assert [task.status for task in (reported, answered)] == [TaskStatus.FAILED] * 2
    assert reported.message == "the dock reports canceled"
    assert answered.message == "the dock said canceled"


def test_an_unknown_status_means_running_and_never_success() -> None:
    task = make_task(status=TaskStatus.SENT)
    report(task, progress("levitating", 50))
    assert task.status == TaskStatus.IN_PROGRESS


def test_paused_goes_on() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, progress("paused", 40))
    assert task.status == TaskStatus.PAUSED
    report(task, progress("in_progress", 41))
    assert task.status == TaskStatus.IN_PROGRESS


def test_a_late_report_does_not_reopen_a_task() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, retries=TRIED)
    report(task, progress("failed", 31, result=312016), timestamp=ago(1))
    report(task, progress("in_progress", 30), timestamp=ago(3))
    assert (task.status, task.percent) == (TaskStatus.FAILED, 31)
    assert task.events.filter(is_late=True, percent=30).count() == 1


def test_an_overtaken_report_is_kept_as_history_and_moves_no_bar() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, progress(percent=60), timestamp=ago(1))
    report(task, progress(percent=50), timestamp=ago(2))
    assert task.percent == 60
    assert set(task.events.values_list("percent", "is_late")) == {(60, False), (50, True)}


def test_a_bar_may_go_backwards() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    report(task, progress(percent=100), timestamp=ago(2))
    report(task, progress(percent=5, step="upgrade_firmware"), timestamp=ago(1))
    assert task.percent == 5


@pytest.mark.parametrize(
    "timestamp", [ago(1), None, -1, 2**60], ids=["then", "never", "negative", "huge"]
)
def test_a_repeated_delivery_adds_no_second_line(timestamp: int | None) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    message = report(task, progress(percent=20), timestamp=timestamp)
    topic = f"thing/product/{task.gateway.sn}/events"
    pipeline.process([received(topic, message), received(topic, message)])
    assert task.events.filter(kind=TaskEvent.Kind.PROGRESS).count() == 1


def test_keys_of_history_rise_with_the_time_of_their_messages() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    for seconds in (30, 20, 10):
        report(task, progress(percent=20), timestamp=ago(seconds))
    keys = task.events.filter(kind=TaskEvent.Kind.PROGRESS).order_by("key").values_list("pk")
    assert list(keys) == sorted(keys)


@pytest.mark.parametrize("percent", [150, -3, True, "a lot", 1e300])
def test_an_impossible_percentage_is_not_believed(percent: Any) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS, percent=20)
    report(task, progress(percent=percent))
    assert (task.status, task.percent) == (TaskStatus.IN_PROGRESS, 20)


def test_progress_with_another_bid_belongs_to_the_one_task_that_the_dock_took() -> None:
    task = make_task(status=TaskStatus.SENT)
    report(task, progress(percent=12), bid="some other")
    assert (task.status, task.percent) == (TaskStatus.IN_PROGRESS, 12)


def test_progress_of_an_upgrade_that_is_not_ours_is_kept_as_foreign() -> None:
    task = make_task(status=TaskStatus.PENDING)
    report(task, progress(percent=12), bid="some other")
    assert task.status == TaskStatus.PENDING
    assert ForeignUpgrade.objects.get(finished_at=None).gateway == task.gateway


def test_a_foreign_upgrade_ends_with_its_last_report() -> None:
    dock = make_dock()
    topic = f"thing/product/{dock.sn}/events"
    for data in (progress(percent=12), progress("ok", 100)):
        pipeline.process([received(topic, envelope(data, "ota_progress", bid="theirs"))])
    assert ForeignUpgrade.objects.get().finished_at


def test_a_dock_that_goes_on_with_a_command_we_gave_up_is_blocked() -> None:
    finished = timezone.now() - dt.timedelta(seconds=5)
    task = make_task(status=TaskStatus.TIMEOUT, finished_at=finished)
    report(task, progress(percent=12))
    assert task.status == TaskStatus.TIMEOUT
    assert ForeignUpgrade.objects.get().gateway == task.gateway


def test_what_comes_again_after_the_end_is_no_upgrade_of_somebody_else() -> None:
    """A bridge was killed before its acknowledgement, and the dock's clock cannot be believed."""
    task = make_task(status=TaskStatus.IN_PROGRESS)
    running, failed = (
        envelope(data, "ota_progress", bid=task.bid, timestamp=978_307_200_000 + number)
        for number, data in enumerate((progress(percent=12), progress("failed", 12, result=312022)))
    )
    topic = f"thing/product/{task.gateway.sn}/events"
    UpgradeTask.objects.update(retries=TRIED)
    pipeline.process([received(topic, running), received(topic, failed)])
    task.refresh_from_db()
    assert task.status == TaskStatus.FAILED
    pipeline.process([received(topic, one, is_again=True) for one in (running, failed)])
    assert not ForeignUpgrade.objects.exists()
    assert task.events.filter(kind="progress").count() == 2


def test_progress_of_a_dock_that_nobody_knows_is_dropped() -> None:
    message = envelope(progress(), "ota_progress")
    pipeline.process([received("thing/product/NOBODY1/events", message)])
    assert not Device.objects.exists()
    assert not ForeignUpgrade.objects.exists()


def test_progress_without_a_method_is_known_by_its_shape() -> None:
    task = make_task(status=TaskStatus.SENT)
    message = envelope(progress(percent=7), bid=task.bid)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/events", message)])
    task.refresh_from_db()
    assert task.percent == 7


def test_progress_is_answered_where_asked_for_and_at_the_end() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    topic = f"thing/product/{task.gateway.sn}/events"
    quiet = envelope(progress(percent=1), "ota_progress", bid=task.bid)
    asking = envelope(progress(percent=2), "ota_progress", bid=task.bid, need_reply=1)
    ending = envelope(progress("ok", 100), "ota_progress", bid=task.bid)
    replies = pipeline.process([received(topic, message) for message in (quiet, asking, ending)])
    assert [answer.tid for answer in replies] == [asking["tid"], ending["tid"]]
    assert replies[0].data == {"result": 0}


def test_a_refusal_after_the_dock_took_the_command_says_nothing() -> None:
    task = make_task(status=TaskStatus.SENT)
    reply(task, 312014)
    assert task.status == TaskStatus.SENT


def test_a_late_acceptance_of_a_command_that_was_to_go_out_again_is_followed() -> None:
    task = make_task(status=TaskStatus.PENDING, attempt=1, replied_at=None)
    reply(task, 0, "sent")
    assert task.status == TaskStatus.IN_PROGRESS


def test_a_reply_without_a_method_is_known_by_its_bid() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    message = envelope({"result": 0}, bid=task.bid, tid=task.tid)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/services_reply", message)])
    task.refresh_from_db()
    assert task.replied_at


@pytest.mark.parametrize("data", [{}, {"result": None}, {"result": "much"}])
def test_a_reply_without_a_readable_result_is_neither_yes_nor_no(data: dict[str, Any]) -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None)
    message = envelope(data, "ota_create", bid=task.bid, tid=task.tid)
    pipeline.process([received(f"thing/product/{task.gateway.sn}/services_reply", message)])
    task.refresh_from_db()
    assert (task.status, task.replied_at) == (TaskStatus.SENT, None)
    assert task.events.filter(kind="reply").exists()


def test_in_one_batch_too_only_the_tasks_own_dock_speaks_about_it() -> None:
    task, liar = make_task(status=TaskStatus.IN_PROGRESS), make_dock()
    own = envelope(progress(percent=30), "ota_progress", bid=task.bid)
    other = envelope(progress("failed", 5, result=312016), "ota_progress", bid=task.bid)
    pipeline.process(
        [
            received(f"thing/product/{task.gateway.sn}/events", own),
            received(f"thing/product/{liar.sn}/events", other),
        ]
    )
    task.refresh_from_db()
    assert (task.status, task.percent) == (TaskStatus.IN_PROGRESS, 30)


def test_a_clock_that_stepped_back_while_the_dock_was_silent_does_not_mute_it() -> None:
    now = timezone.now()
    seen = now - dt.timedelta(minutes=3)
    task = make_task(status=TaskStatus.IN_PROGRESS, progress_at=seen, progress_seen_at=seen)
    report(task, progress(percent=90), timestamp=ago(3 * 3600))
    assert task.percent == 90


def test_a_failed_upgrade_that_goes_on_blocks_the_dock_whatever_its_clock_says() -> None:
    now = timezone.now()
    task = make_task(
        status=TaskStatus.FAILED,
        finished_at=now - dt.timedelta(seconds=30),
        progress_at=now - dt.timedelta(seconds=200),
    )
    report(task, progress(percent=50), timestamp=ago(120))
    assert ForeignUpgrade.objects.filter(finished_at=None).get().gateway == task.gateway


def test_an_end_that_somebody_else_repeats_is_one_foreign_upgrade() -> None:
    dock = make_dock()
    for _ in range(3):
        message = envelope(progress("ok", 100), "ota_progress", bid="theirs")
        pipeline.process([received(f"thing/product/{dock.sn}/events", message)])
    assert ForeignUpgrade.objects.count() == 1


def test_progress_without_a_method_is_answered_like_any() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    message = envelope(progress("ok", 100), bid=task.bid)
    topic = f"thing/product/{task.gateway.sn}/events"
    (answer,) = pipeline.process([received(topic, message)])
    assert answer.tid == message["tid"]


def test_an_end_without_a_method_and_without_progress_is_known_by_its_bid() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    message = envelope({"result": 312016, "output": {"status": "failed"}}, bid=task.bid)
    topic = f"thing/product/{task.gateway.sn}/events"
    (answer,) = pipeline.process([received(topic, message)])
    task.refresh_from_db()
    assert (task.status, answer.tid) == (TaskStatus.FAILED, message["tid"])


def test_other_events_without_a_method_are_answered_and_are_no_upgrade() -> None:
    """The progress of a flight task has the same shape."""
    dock = make_dock()
    message = envelope(progress(percent=10), bid="a flight", need_reply=1)
    (answer,) = pipeline.process([received(f"thing/product/{dock.sn}/events", message)])
    assert answer.tid == message["tid"]
    assert not ForeignUpgrade.objects.exists()


def test_a_dock_that_ends_a_command_that_we_gave_up_is_free_again() -> None:
    finished = timezone.now() - dt.timedelta(seconds=5)
    task = make_task(status=TaskStatus.TIMEOUT, finished_at=finished)
    for data in (progress(percent=12), progress("ok", 100)):
        report(task, data)
    assert ForeignUpgrade.objects.get().finished_at


def test_what_was_taken_for_foreign_before_the_task_was_followed_ends_with_it() -> None:
    """Its reply was lost, and its firmware does not repeat our bid."""
    task = make_task(make_dock(mode_code=3), status=TaskStatus.SENT, replied_at=None)
    report(task, progress(percent=5), bid="its own")
    UpgradeTask.objects.update(status=TaskStatus.IN_PROGRESS, replied_at=timezone.now())
    report(task, progress("ok", 100), bid="its own")
    assert task.device_ok_at
    assert ForeignUpgrade.objects.get().finished_at


def test_the_upgrade_of_somebody_else_does_not_end_with_ours() -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    now = timezone.now()
    times = {"first_seen_at": now, "last_seen_at": now}
    theirs = ForeignUpgrade.objects.create(gateway=task.gateway, bid="theirs", **times)
    report(task, progress("ok", 100))
    theirs.refresh_from_db()
    assert theirs.finished_at is None


def test_a_failure_right_after_the_first_progress_of_a_retry_is_its_own() -> None:
    task = make_task(status=TaskStatus.SENT, replied_at=None, attempt=2, retries=1)
    topic = f"thing/product/{task.gateway.sn}/events"
    told = [(progress(), ago(0.5)), (progress("failed", 10, result=312016), ago(0.1))]
    pipeline.process(
        [
            received(topic, envelope(data, "ota_progress", bid=task.bid, timestamp=at))
            for data, at in told
        ]
    )
    task.refresh_from_db()
    assert task.status == TaskStatus.FAILED


def test_the_end_of_somebody_elses_upgrade_is_known_without_a_method_too() -> None:
    """Our own task, during which it was seen, may be over by then."""
    task = make_task()
    topic = f"thing/product/{task.gateway.sn}/events"
    pipeline.process([received(topic, envelope(progress(), bid="theirs"))])
    UpgradeTask.objects.update(status=TaskStatus.CANCELED)
    pipeline.process([received(topic, envelope(progress("ok", 100), bid="theirs"))])
    assert ForeignUpgrade.objects.get().finished_at
