"""`rollout ID VERB`: what each verb does, says and leaves in the history; twice, too late, by whom."""

import datetime as dt
import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from ota import rollouts
from ota.models import OrganizationPolicy, Rollout, RolloutEvent, UpgradeTask, Wave
from ota.states import TaskStatus
from tests.calls import Run, refusal
from tests.make import (
    NEW,
    make_device,
    make_dock,
    make_failed,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
    make_wave,
)
from tests.people import make_person
from tests.servers import Server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

S = TaskStatus
Kind = RolloutEvent.Kind
Status = Rollout.Status


@pytest.fixture
def operator() -> User:
    return make_person("Operators")


def make_undecided() -> Rollout:
    rollout = make_rollout(status=Status.NEEDS_APPROVAL)
    rollout.wave_set.update(opened_at=None)
    make_task(rollout=rollout)
    return rollout


def status(rollout: Rollout) -> str:
    rollout.refresh_from_db()
    return rollout.status


def history(rollout: Rollout) -> list[tuple[str, str, User | None]]:
    return [(event.kind, event.text, event.actor) for event in rollout.events.all()]


# Showing


def test_a_rollout_is_shown_in_full(run: Run) -> None:
    rollout = make_rollout(name="Night", windows="daily 22:00-05:00", max_failed=3)
    make_wave(rollout, 2, title="Harbour", opened_at=None, gate=95)
    failed = make_failed(rollout, message="no room")
    run("rollout", str(rollout.pk), "pause", "--reason", "storm")
    told = run.answer("rollout", str(rollout.pk), "show")
    assert list(told) == [
        *("rollout_id", "verb", "changed", "text", "name", "status", "pause_reason"),
        *(
            "created_at",
            "created_by",
            "is_automatic",
            "starts_at",
            "deadline_at",
            "finished_at",
            "decided_at",
        ),
        *("decided_by", "remark", "target_version", "allow_downgrade", "policy", "counts"),
        *("waves", "needs_attention", "history"),
    ]
    assert (told["status"], told["pause_reason"]) == (
        "paused",
        "storm; paused from the terminal",
    )
    assert (told["policy"]["windows"], told["policy"]["max_failed"]) == ("daily 22:00-05:00", 3)
    assert told["waves"][1]["title"] == "Harbour"
    assert [each["gateway_sn"] for each in told["needs_attention"]] == [failed.gateway.sn]
    assert [(each["kind"], each["user"]) for each in told["history"]] == [("paused", None)]


def test_people_see_waves_choices_and_history(run: Run) -> None:
    rollout = make_rollout(name="Night [red]", windows="daily 22:00-05:00")
    failed = make_failed(rollout)
    run("rollout", str(rollout.pk), "pause")
    assert run("rollout", str(rollout.pk), "show") == 0
    for text in ("Night [red]: paused", "daily 22:00-05:00", failed.gateway.sn, "Needs attention"):
        assert text in run.out


def test_showing_costs_the_same_for_few_and_for_many(run: Run) -> None:
    rollout = make_rollout()
    make_failed(rollout)
    few = queries(run, rollout)
    for number in range(2, 12):
        make_failed(rollout, wave=make_wave(rollout, number))
    assert queries(run, rollout) == few


def queries(run: Run, rollout: Rollout) -> int:
    with CaptureQueriesContext(connection) as found:
        run("rollout", str(rollout.pk), "show")
    return len(found)


# Pause, resume, cancel


def test_a_rollout_is_paused_and_resumed(run: Run, operator: User) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    told = run.answer("rollout", str(rollout.pk), "pause", "--user", operator.username)
    assert told == {
        "rollout_id": rollout.pk,
        "verb": "pause",
        "changed": True,
        "text": "Paused: nothing more is issued, what runs goes on.",
    }
    assert status(rollout) == Status.PAUSED
    assert run.answer("rollout", str(rollout.pk), "resume")["changed"]
    assert status(rollout) == Status.RUNNING
    assert history(rollout) == [
        (Kind.PAUSED, f"paused by {operator}", operator),
        (Kind.RESUMED, "from the terminal", None),
    ]


def test_what_somebody_does_at_the_terminal_is_not_said_to_be_by_itself(
    run: Run, operator: User
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    run("rollout", str(rollout.pk), "pause", "--reason", "x" * 474)
    run("rollout", str(rollout.pk), "change", "--name", "y" * 200)
    run("rollout", str(rollout.pk), "resume", "--user", operator.username)
    rollouts.stop(rollout, "too much failed", timezone.now())
    by = [event.by for event in rollout.events.all()]
    assert by == ["from the terminal", "from the terminal", "operators", "by itself"]


def test_a_reason_is_kept_whole_or_not_taken(run: Run, operator: User) -> None:
    rollout = make_rollout()
    pause = ("rollout", str(rollout.pk), "pause", "--reason")
    assert refusal(*pause, "x" * 475) == (2, "--reason: longer than 474 characters.")
    by_operator = ("--user", operator.username)
    assert refusal(*pause, "x" * 501, *by_operator) == (2, "--reason: longer than 500 characters.")
    assert (status(rollout), history(rollout)) == (Status.RUNNING, [])
    assert run(*pause, "x" * 500, *by_operator) == 0
    rollout.refresh_from_db()
    assert rollout.pause_reason == "x" * 500


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("resume", "running")])
def test_what_is_so_already_is_no_failure(run: Run, verb: str, state: str) -> None:
    rollout = make_rollout(status=state)
    told = run.answer("rollout", str(rollout.pk), verb)
    assert (told["changed"], history(rollout)) == (False, [])
    assert told["text"] == f"Nothing changed: rollout {rollout.pk} is {state} already."


@pytest.mark.parametrize("state", ["finished", "canceled", "needs_approval"])
@pytest.mark.parametrize("verb", ["pause", "resume", "open-wave"])
def test_what_cannot_be_done_now_says_why(run: Run, verb: str, state: str) -> None:
    rollout = make_rollout(status=state)
    told = run.answer("rollout", str(rollout.pk), verb, code=1)
    assert not told["changed"]
    assert f"is {state.replace('_', ' ')}" in told["text"]
    assert refusal("rollout", str(rollout.pk), verb) == (1, told["text"])


def test_a_rollout_is_canceled_once(run: Run, operator: User) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    call = ("rollout", str(rollout.pk), "cancel", "--user", operator.username)
    first, second = run.answer(*call), run.answer(*call)
    assert (first["changed"], first["canceled"]) == (True, 1)
    assert (second["changed"], second["canceled"]) == (False, 0)
    assert UpgradeTask.objects.get().status == S.CANCELED
    assert [kind for kind, _, _ in history(rollout)] == [Kind.CANCELED]


def test_canceling_tells_what_goes_on_and_what_was_sent_before(run: Run) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout)
    make_task(rollout=rollout, attempt=1, unanswered=1)
    make_task(rollout=rollout, status=S.IN_PROGRESS)
    told = run.answer("rollout", str(rollout.pk), "cancel")
    assert told["canceled"] == 2
    assert told["text"] == (
        "Called off 2 upgrades that waited. 1 of them had been sent before: it needs attention. "
        "1 was sent already and goes on to its end."
    )


def test_canceling_what_was_never_sent_tells_of_nothing_that_goes_on(run: Run) -> None:
    told = run.answer("rollout", str(make_task().rollout.pk), "cancel")
    assert told["text"] == "Called off 1 upgrade that waited."


def test_a_finished_rollout_cannot_be_canceled(run: Run) -> None:
    rollout = make_rollout(status=Status.FINISHED, finished_at=timezone.now())
    told = run.answer("rollout", str(rollout.pk), "cancel", code=1)
    assert told["text"] == f"Rollout {rollout.pk} is finished; nothing of it is left to cancel."


# Waves


def test_the_next_wave_is_opened(run: Run, operator: User) -> None:
    rollout = make_rollout()
    second = make_wave(rollout, 2, opened_at=None)
    told = run.answer("rollout", str(rollout.pk), "open-wave", "--user", operator.username)
    second.refresh_from_db()
    assert (told["changed"], told["wave"], second.opened_by) == (True, 2, operator)
    again = run.answer("rollout", str(rollout.pk), "open-wave")
    assert (again["changed"], again["text"]) == (False, "Nothing changed: all waves are open.")


def test_a_wave_that_is_named_opens_alone_however_often_it_is_asked_for(run: Run) -> None:
    rollout = make_rollout()
    third = [make_wave(rollout, number, opened_at=None) for number in (2, 3)][1]
    call = ("rollout", str(rollout.pk), "open-wave", "--wave", "2")
    assert run.answer(*call)["changed"]
    assert not run.answer(*call)["changed"]
    assert Wave.objects.get(pk=third.pk).opened_at is None


def test_a_wave_that_is_not_the_next_one_stays_closed(run: Run) -> None:
    rollout = make_rollout()
    for number in (2, 3):
        make_wave(rollout, number, opened_at=None)
    told = run.answer("rollout", str(rollout.pk), "open-wave", "--wave", "3", code=1)
    assert told["text"] == "Wave 3 is not the next one."
    assert rollout.wave_set.filter(opened_at=None).count() == 2


def test_a_wave_that_there_is_not_is_a_wrong_call() -> None:
    rollout = make_rollout()
    message = f"--wave: rollout {rollout.pk} has waves 1 to 1, not 7."
    assert refusal("rollout", str(rollout.pk), "open-wave", "--wave", "7") == (2, message)


# What failed


def test_what_failed_is_retried_once(run: Run, operator: User) -> None:
    rollout = make_rollout(status=Status.FINISHED, finished_at=timezone.now())
    failed = make_failed(rollout)
    call = ("rollout", str(rollout.pk), "retry", "--user", operator.username)
    first, second = run.answer(*call), run.answer(*call)
    assert (first["changed"], first["retried"]) == (True, [failed.gateway.sn])
    assert (second["changed"], second["retried"]) == (False, [])
    assert UpgradeTask.objects.get(retry_of=failed).status == S.PENDING
    assert status(rollout) == Status.RUNNING


def test_only_named_docks_are_retried(run: Run) -> None:
    rollout = make_rollout()
    first, second = make_failed(rollout), make_failed(rollout)
    told = run.answer("rollout", str(rollout.pk), "retry", "--sn", first.gateway.sn)
    assert told["retried"] == [first.gateway.sn]
    assert UpgradeTask.objects.get(pk=second.pk).needs_attention


def test_a_dock_that_another_upgrade_holds_is_told(run: Run) -> None:
    rollout = make_rollout()
    failed = make_failed(rollout)
    make_task(failed.gateway)
    told = run.answer("rollout", str(rollout.pk), "retry", code=1)
    assert (told["changed"], told["left_out"]) == (False, [failed.gateway.sn])


def test_what_a_canceled_rollout_failed_at_cannot_be_retried(run: Run) -> None:
    rollout = make_rollout(status=Status.CANCELED)
    make_failed(rollout)
    told = run.answer("rollout", str(rollout.pk), "retry", code=1)
    assert "was canceled; start another one" in told["text"]


def test_what_failed_is_dismissed_once(run: Run) -> None:
    rollout = make_rollout()
    failed = make_failed(rollout)
    call = ("rollout", str(rollout.pk), "dismiss", "--sn", failed.gateway.sn)
    first, second = run.answer(*call), run.answer(*call)
    assert (first["changed"], first["dismissed"]) == (True, 1)
    assert (second["changed"], second["dismissed"]) == (False, 0)
    assert history(rollout) == [(Kind.DISMISSED, "1 upgrade; from the terminal", None)]


@pytest.mark.parametrize("verb", ["retry", "dismiss"])
def test_a_dock_of_another_rollout_is_a_wrong_call(verb: str) -> None:
    rollout, other = make_rollout(), make_failed(make_rollout())
    message = f"Unknown serial number in this rollout: {other.gateway.sn}"
    assert refusal("rollout", str(rollout.pk), verb, "--sn", other.gateway.sn) == (2, message)


# Changes


def test_the_deadline_is_moved_and_removed(run: Run) -> None:
    rollout = make_rollout()
    call = ("rollout", str(rollout.pk), "extend", "--deadline")
    assert run.answer(*call, "2099-01-01T22:00+01:00")["changed"]
    rollout.refresh_from_db()
    assert rollout.deadline_at == dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC)
    assert not run.answer(*call, "2099-01-01T21:00+00:00")["changed"]
    assert run.answer(*call, "none")["changed"]
    rollout.refresh_from_db()
    assert rollout.deadline_at is None


def test_a_time_without_a_zone_is_local(run: Run, settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Zurich"
    rollout = make_rollout()
    run("rollout", str(rollout.pk), "extend", "--deadline", "2099-01-01T22:00")
    rollout.refresh_from_db()
    assert rollout.deadline_at == dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC)


def test_limits_change_while_it_runs(run: Run, operator: User) -> None:
    rollout = make_rollout()
    options = ["--limit-in-flight", "3", "--max-failed", "5", "--max-failed-percent", "none"]
    options += ["--windows", "daily 22:00-05:00", "--ask", "--user", operator.username]
    told = run.answer("rollout", str(rollout.pk), "change", *options)
    assert (told["changed"], len(told["changes"])) == (True, 5)
    rollout.refresh_from_db()
    assert (rollout.limit_in_flight, rollout.max_failed, rollout.max_failed_percent) == (3, 5, None)
    assert (rollout.windows, rollout.asks_between_waves) == ("daily 22:00-05:00", True)
    assert history(rollout)[0][2] == operator
    assert not run.answer("rollout", str(rollout.pk), "change", *options)["changed"]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--windows", "Mon 08:00-08:10", "--windows: The hours last 10 min in a row at most"),
        ("--deadline", "2001-01-01T00:00", "--deadline: The deadline has passed already."),
        ("--name", "", "--name: This field cannot be blank."),
        ("--name", "  ", "--name: This field cannot be blank."),
    ],
)
def test_a_change_that_makes_no_sense_is_a_wrong_call(option: str, value: str, told: str) -> None:
    rollout = make_rollout()
    code, message = refusal("rollout", str(rollout.pk), "change", option, value)
    assert (code, message.startswith(told)) == (2, True), message
    assert history(rollout) == []


def test_changing_nothing_is_a_wrong_call() -> None:
    code, message = refusal("rollout", str(make_rollout().pk), "change")
    assert (code, message) == (2, "Name what to change, such as --limit-in-flight 5.")


def test_a_rollout_that_has_ended_changes_no_more(run: Run) -> None:
    rollout = make_rollout(status=Status.FINISHED)
    told = run.answer("rollout", str(rollout.pk), "change", "--limit-in-flight", "3", code=1)
    assert told["text"] == "Rollout has ended."


# Approval


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_remark_that_would_be_cut_off_is_a_wrong_call(verb: str) -> None:
    rollout = make_rollout(status=Status.NEEDS_APPROVAL)
    boss = make_person("Administrators").username
    call = ("rollout", str(rollout.pk), verb, "--user", boss, "--remark", "x" * 501)
    assert refusal(*call) == (2, "--remark: longer than 500 characters.")
    assert status(rollout) == Status.NEEDS_APPROVAL


def test_a_second_person_approves(run: Run) -> None:
    rollout, boss = make_undecided(), User.objects.create_superuser("boss")
    call = ("rollout", str(rollout.pk), "approve", "--user", "boss", "--remark", "go")
    assert run.answer(*call)["changed"]
    assert (status(rollout), rollout.decided_by, rollout.remark) == (Status.RUNNING, boss, "go")
    assert rollout.wave_set.get().opened_at
    told = run.answer(*call)
    assert (told["changed"], told["text"]) == (False, "Nothing changed: it was approved already.")


def test_a_second_person_denies(run: Run) -> None:
    rollout = make_undecided()
    User.objects.create_superuser("boss")
    call = ("rollout", str(rollout.pk), "deny", "--user", "boss")
    assert (run.answer(*call)["changed"], run.answer(*call)["changed"]) == (True, False)
    assert status(rollout) == Status.CANCELED
    told = run.answer("rollout", str(rollout.pk), "approve", "--user", "boss", code=1)
    assert told["text"] == "Rollout does not wait for approval."


def test_the_author_cannot_approve(run: Run) -> None:
    rollout = make_undecided()
    Rollout.objects.update(created_by=User.objects.create_superuser("boss"))
    told = run.answer("rollout", str(rollout.pk), "approve", "--user", "boss", code=1)
    assert told["text"] == "Somebody else than the author has to approve a rollout."
    assert status(rollout) == Status.NEEDS_APPROVAL


# Who


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody", "Unknown user: nobody"),
        ("gone", "User gone is not active."),
        ("viewers", "User viewers lacks the permission ota.upgrade_devices."),
    ],
)
def test_who_may_not_do_it_is_a_wrong_call(name: str, message: str) -> None:
    User.objects.create_superuser("gone", is_active=False)
    make_person("Viewers")
    rollout = make_rollout()
    assert refusal("rollout", str(rollout.pk), "pause", "--user", name) == (2, message)
    assert status(rollout) == Status.RUNNING


def test_approving_takes_a_permission_of_its_own() -> None:
    upgrader = User.objects.create_user("upgrader")
    upgrader.user_permissions.set(Permission.objects.filter(codename="upgrade_devices"))
    rollout = make_undecided()
    message = "User upgrader lacks the permission ota.approve_rollout."
    assert refusal("rollout", str(rollout.pk), "approve", "--user", "upgrader") == (2, message)
    assert status(rollout) == Status.NEEDS_APPROVAL


@pytest.mark.parametrize("state", [Status.RUNNING, Status.CANCELED, Status.FINISHED])
@pytest.mark.parametrize(
    ("call", "empty"),
    [
        (["cancel"], {"canceled": 0}),
        (["retry"], {"retried": [], "left_out": []}),
        (["dismiss"], {"dismissed": 0}),
        (["open-wave"], {"wave": None}),
        (["extend", "--deadline", "none"], {"changes": []}),
        (["change", "--deadline", "none"], {"changes": []}),
    ],
)
def test_what_a_verb_promises_to_tell_is_there_also_if_nothing_changed(
    run: Run, call: list[str], empty: dict[str, Any], state: str
) -> None:
    run("rollout", str(make_rollout(status=state).pk), *call, "--json")
    told = json.loads(run.out)
    assert {name: told.get(name, "absent") for name in empty} == empty


def test_an_unknown_rollout_is_a_wrong_call() -> None:
    assert refusal("rollout", "4711", "pause") == (2, "Unknown rollout: 4711")


def test_a_verb_works_while_redis_is_away(run: Run, redis_server: Server) -> None:
    rollout = make_rollout(status=Status.PAUSED)
    redis_server.stop()
    assert run.answer("rollout", str(rollout.pk), "resume")["changed"]


# Clones


@pytest.fixture
def library() -> None:
    make_listening()
    make_package()


@pytest.mark.usefixtures("library")
def test_a_clone_upgrades_the_rest_with_the_same_policy(run: Run, operator: User) -> None:
    organization = make_organization()
    rollout = make_rollout(name="Pilot", target_version=NEW, soak_minutes=30, limit_in_flight=3)
    make_task(make_dock(NEW, organization=organization), rollout=rollout, status=S.OK)
    rest = make_dock(organization=organization)
    make_dock()  # of another organization
    make_device("3-3-0", organization=organization)  # of another model
    call = ("rollout", str(rollout.pk), "clone", "--user", operator.username)
    told = run.answer(*call, "--limit-in-flight", "7", "--name", "Everywhere")
    made = Rollout.objects.get(pk=told["clone_id"])
    assert [task["gateway_sn"] for task in told["tasks"]] == [rest.sn]
    assert (made.name, made.target_version, made.created_by) == ("Everywhere", NEW, operator)
    assert (made.soak_minutes, made.limit_in_flight) == (30, 7)


@pytest.mark.usefixtures("library")
def test_a_clone_leaves_what_failed_to_its_rollout(run: Run) -> None:
    organization = make_organization()
    rollout = make_rollout()
    make_failed(rollout, dock=make_dock(organization=organization))
    rest = make_dock(organization=organization)
    told = run.answer("rollout", str(rollout.pk), "clone", "--dry-run")
    assert [task["gateway_sn"] for task in told["tasks"]] == [rest.sn]
    assert (told["changed"], told["clone_id"], Rollout.objects.count()) == (False, None, 1)


@pytest.mark.usefixtures("library")
def test_a_dry_run_of_a_clone_says_that_it_will_need_an_author(run: Run, operator: User) -> None:
    organization = make_organization()
    OrganizationPolicy.objects.create(organization=organization, approval_above=0)
    rollout = make_rollout()
    make_task(make_dock(NEW, organization=organization), rollout=rollout, status=S.OK)
    make_dock(organization=organization)
    call = ("rollout", str(rollout.pk), "clone", "--dry-run")
    assert "say with --user in whose name it starts" in run.answer(*call)["text"]
    assert "--user" not in run.answer(*call, "--user", operator.username)["text"]


@pytest.mark.usefixtures("library")
def test_a_rollouts_name_in_two_lines_is_a_wrong_call(run: Run) -> None:
    make_dock()
    rollout = make_rollout(name="Spring")
    told = (2, "--name: Write it in one line, without control characters.")
    for call in (("start_upgrade", "--all"), ("rollout", str(rollout.pk), "change")):
        assert refusal(*call, "--name", "Spring\nSubject: none") == told
    assert [rollout.name for rollout in Rollout.objects.all()] == ["Spring"]


def test_a_start_in_the_past_is_a_wrong_call_and_the_one_that_it_has_is_none(run: Run) -> None:
    at = timezone.now() - dt.timedelta(hours=1)
    rollout = make_rollout(starts_at=at)
    call = ("rollout", str(rollout.pk), "change", "--deadline", "2099-01-01T00:00", "--start")
    code, message = refusal(*call, "2020-01-01T00:00")
    assert (code, message.startswith("--start: The start has passed already")) == (2, True)
    assert run.answer(*call, at.isoformat())["changed"]


@pytest.mark.usefixtures("library")
def test_a_second_clone_finds_nothing_left(run: Run) -> None:
    organization = make_organization()
    rollout = make_rollout()
    make_task(make_dock(NEW, organization=organization), rollout=rollout, status=S.OK)
    make_dock(organization=organization)
    assert run.answer("rollout", str(rollout.pk), "clone")["changed"]
    told = run.answer("rollout", str(rollout.pk), "clone", code=1)
    assert (told["changed"], told["text"]) == (False, "Nothing to upgrade.")


@pytest.mark.usefixtures("library")
def test_a_clone_says_whether_it_comes_from_the_terminal(run: Run, operator: User) -> None:
    organization = make_organization()
    rollout = make_rollout()
    make_task(make_dock(NEW, organization=organization), rollout=rollout, status=S.OK)
    make_dock(organization=organization)
    told = run.answer("rollout", str(rollout.pk), "clone")
    started = RolloutEvent.objects.get(rollout=told["clone_id"], kind=Kind.STARTED)
    assert (started.by, started.text) == (
        "from the terminal",
        "1 dock in 1 wave; from the terminal",
    )


@pytest.mark.usefixtures("library")
def test_a_clone_of_a_downgrade_leaves_newer_devices_out_and_names_the_option(run: Run) -> None:
    organization = make_organization()
    rollout = make_rollout(target_version=NEW, allow_downgrade=True)
    make_task(make_dock(NEW, organization=organization), rollout=rollout, status=S.OK)
    newer = make_dock("10.02.0000", organization=organization)
    call = ("rollout", str(rollout.pk), "clone")
    told = run.answer(*call, code=1)
    assert (told["excluded"][0]["sn"], told["excluded"][0]["code"]) == (newer.sn, "downgrade")
    assert told["text"] == (
        "Nothing to upgrade. Left out as newer: 1; --allow-downgrade takes such devices too."
    )
    told = run.answer(*call, "--allow-downgrade")
    assert told["tasks"][0]["targets"][0]["to_version"] == NEW
    assert "newer" not in told["text"]
