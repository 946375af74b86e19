"""`rollout`: shows a rollout, and does to it what operators do in the console."""

import argparse
import datetime as dt
from collections.abc import Callable
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.db.models import Q
from django.utils import timezone
from rich.console import RenderableType

from console.counts import count
from console.terminal import (
    AnsweringCommand,
    not_as_asked,
    refuse_unknown,
    table,
    visible,
    wrong_call,
)
from ota import rollouts, status
from ota.management.launching import add_launch, chosen_options, plan_shown, would_be_refused
from ota.management.people import APPROVE, UPGRADE, add_user, person, remark_of
from ota.management.policy import add_policy, add_times, chosen, moment, refuse
from ota.management.waking import wake_workers
from ota.management.watching import find, tasks_table, title, waves_table
from ota.models import Rollout, RolloutEvent
from ota.rollouts import FIELDS, InvalidPolicy, NothingToUpgrade, NotPossible, Plan
from ota.rollouts.course import LINE, joined
from ota.states import RolloutStatus

Document = dict[str, Any]

CHANGEABLE = tuple(name for name in FIELDS if name != "waves")


class Call(NamedTuple):
    """What is wanted of a rollout, and by whom; nobody is somebody at the terminal."""

    rollout: Rollout
    now: dt.datetime
    user: User | None
    options: dict[str, Any]

    @property
    def remark(self) -> str:
        return remark_of(self.user)


class Outcome(NamedTuple):
    """What became of a verb: ``more`` is added to the document, ``shown`` to what people see."""

    changed: bool
    text: str
    more: Document = {}
    shown: tuple[RenderableType, ...] = ()
    is_as_asked: bool = True


class Verb(NamedTuple):
    """What an operator does; ``wakes`` tells whether something may be issued after it.

    ``empty`` is what the document tells of it where nothing changed.
    """

    help: str
    run: Callable[[Call], Outcome]
    add_arguments: Callable[[CommandParser], None] = lambda parser: None
    permission: str = UPGRADE
    wakes: bool = False
    empty: Document = {}


class Command(AnsweringCommand):
    help = "Shows a rollout, or pauses, resumes, cancels, retries, changes … it."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("rollout", metavar="ID", type=int, help="its number")
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        for name, verb in VERBS.items():
            its = verbs.add_parser(name, help=verb.help, description=verb.help)
            # Also behind the verb, where people write it.
            its.add_argument(
                "--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
            verb.add_arguments(its)
            if name != "show":
                add_user(its, required=verb.permission == APPROVE)

    def handle(self, *args: Any, **options: Any) -> None:
        verb = VERBS[options["verb"]]
        rollout = find(options["rollout"])
        user = person(options.get("user"), verb.permission)
        outcome = _outcome(verb, Call(rollout, timezone.now(), user, options))
        self.done = visible(outcome.text) if outcome.changed else ""
        if outcome.changed and verb.wakes:
            wake_workers()
        self._answer(rollout, outcome, options)

    def _answer(self, rollout: Rollout, outcome: Outcome, options: dict[str, Any]) -> None:
        document = {
            "rollout_id": rollout.pk,
            "verb": options["verb"],
            "changed": outcome.changed,
            "text": outcome.text,
            **VERBS[options["verb"]].empty,
            **outcome.more,
        }
        text = visible(outcome.text)
        shown = [text, *outcome.shown] if outcome.is_as_asked else outcome.shown
        self.answer(document, *shown, as_json=options["json"])
        if not outcome.is_as_asked:
            not_as_asked(text)


def _outcome(verb: Verb, call: Call) -> Outcome:
    try:
        return verb.run(call)
    except NotPossible as error:
        return Outcome(False, str(error), is_as_asked=False)
    except InvalidPolicy as error:
        refuse(error)


# What is shown


def _show(call: Call) -> Outcome:
    document = status.of_decision(call.rollout)
    shown: list[RenderableType] = [
        table(["Choice", "Value"], _choices(document)),
        waves_table(document["waves"]),
    ]
    if document["needs_attention"]:
        shown += ["Needs attention:", tasks_table(document["needs_attention"])]
    history = [(e["at"], e["kind"], e["user"], e["text"]) for e in document["history"]]
    shown.append(table(["When", "What", "Who", "Remark"], history))
    return Outcome(False, title(call.rollout).plain, document, tuple(shown))


def _choices(document: Document) -> list[tuple[str, object]]:
    names = ("created_by", "starts_at", "deadline_at", "finished_at", "target_version")
    told = {name: document[name] for name in (*names, "allow_downgrade", "decided_by", "remark")}
    return list((told | document["policy"]).items())


# Going on and holding back


def _pause(call: Call) -> Outcome:
    who = "" if call.user else f"paused {call.remark}"
    _refuse_long("reason", call.options["reason"], LINE - len(f"; {who}") if who else LINE)
    reason = joined(call.options["reason"], who)
    if rollouts.pause(call.rollout, call.now, call.user, reason):
        return Outcome(True, "Paused: nothing more is issued, what runs goes on.")
    return _is_already(call, RolloutStatus.PAUSED, "only one that runs can be paused")


def _refuse_long(name: str, text: str, most: int) -> None:
    """Refuses what would be cut off, and then not be what somebody has said."""
    if len(text) > most:
        wrong_call(f"--{name}: longer than {most} characters.")


def _resume(call: Call) -> Outcome:
    if rollouts.resume(call.rollout, call.now, call.user, call.remark):
        return Outcome(True, "Resumed.")
    return _is_already(call, RolloutStatus.RUNNING, "only one that is paused can be resumed")


def _close(call: Call) -> Outcome:
    if rollouts.close(call.rollout, call.now, call.user, call.remark):
        return Outcome(True, "Closed: nobody joins any more.")
    return Outcome(False, f"Nothing changed: rollout {call.rollout.pk} does not stay open.")


def _cancel(call: Call) -> Outcome:
    before = call.rollout.status
    canceled = rollouts.cancel(call.rollout, call.now, call.user, call.remark)
    already = _is_already(call, RolloutStatus.CANCELED, "nothing of it is left to cancel")
    if before == RolloutStatus.CANCELED and not canceled:
        return already
    text = rollouts.canceled_in_words(call.rollout, canceled, call.now)
    return Outcome(True, text, {"canceled": canceled})


def _is_already(call: Call, wanted: RolloutStatus, otherwise: str) -> Outcome:
    """Nothing changed because it is so already.

    Raises:
        NotPossible: it is something else.
    """
    call.rollout.refresh_from_db()
    now = call.rollout.get_status_display().lower()
    if call.rollout.status != wanted:
        raise NotPossible(f"Rollout {call.rollout.pk} is {now}; {otherwise}.")
    return Outcome(False, f"Nothing changed: rollout {call.rollout.pk} is {now} already.")


def _open_wave(call: Call) -> Outcome:
    number = call.options["wave"]
    waves = dict(call.rollout.wave_set.values_list("number", "opened_at"))
    if number is not None and number not in waves:
        wrong_call(f"--wave: rollout {call.rollout.pk} has waves 1 to {len(waves)}, not {number}.")
    if number is not None and waves[number]:
        return Outcome(False, f"Nothing changed: wave {number} is open already.")
    wave = rollouts.open_next_wave(call.rollout, call.now, call.user, call.remark, number)
    if wave:
        return Outcome(True, f"Wave {wave.number} is open.", {"wave": wave.number})
    if number is not None and call.rollout.wave_set.filter(number=number, opened_at=None).exists():
        raise NotPossible(f"Wave {number} is not the next one.")
    return Outcome(False, "Nothing changed: all waves are open.")


# What failed


def _retry(call: Call) -> Outcome:
    pks = _named(call)
    made = rollouts.retry(call.rollout, call.now, call.user, pks, call.remark)
    left = call.rollout.tasks.needing_attention().order_by("pk")
    left = left if pks is None else left.filter(pk__in=pks)
    left_out = list(left.values_list("gateway__sn", flat=True))
    retried = [task.gateway.sn for task in made]
    text = (
        f"Planned {count(len(made), 'upgrade')} again." if made else "Nothing changed: none failed."
    )
    if left_out:
        text = f"Planned {count(len(made), 'upgrade')} again; not {', '.join(left_out)}: another upgrade is open."
    more = {"retried": retried, "left_out": left_out}
    return Outcome(bool(made), text, more, is_as_asked=not left_out)


def _dismiss(call: Call) -> Outcome:
    done = rollouts.dismiss(call.rollout, call.now, call.user, _named(call), call.remark)
    text = (
        f"Dismissed {count(done, 'upgrade')}." if done else "Nothing changed: none needs attention."
    )
    return Outcome(done > 0, text, {"dismissed": done})


def _named(call: Call) -> list[int] | None:
    """The tasks of the docks and aircraft that were named; None if all are meant."""
    if not (sns := call.options["sn"]):
        return None
    tasks = call.rollout.tasks
    known = tasks.values_list("gateway__sn", "targets__device__sn")
    refuse_unknown("serial number in this rollout", sns, {sn for each in known for sn in each})
    named = Q(gateway__sn__in=sns) | Q(targets__device__sn__in=sns)
    return list(tasks.filter(named).values_list("pk", flat=True).distinct())


# What was chosen


def _extend(call: Call) -> Outcome:
    return _changed(call, ("deadline_at",))


def _change(call: Call) -> Outcome:
    return _changed(call, (*CHANGEABLE, "name", "starts_at", "deadline_at"))


def _changed(call: Call, names: tuple[str, ...]) -> Outcome:
    if not (fields := chosen(call.options, names)):
        wrong_call("Name what to change, such as --limit-in-flight 5.")
    told = rollouts.change(call.rollout, fields, call.now, call.user, call.remark)
    text = f"Changed {'; '.join(told)}." if told else "Nothing changed: it is so already."
    return Outcome(bool(told), text, {"changes": told})


def _approve(call: Call) -> Outcome:
    return _decided(call, rollouts.approve, RolloutEvent.Kind.APPROVED, "Approved.")


def _deny(call: Call) -> Outcome:
    return _decided(call, rollouts.deny, RolloutEvent.Kind.DENIED, "Denied: nothing is issued.")


def _decided(
    call: Call, decide: Callable[..., None], kind: RolloutEvent.Kind, text: str
) -> Outcome:
    _refuse_long("remark", call.options["remark"], LINE)
    try:
        decide(call.rollout, call.now, call.user, call.options["remark"])
    except NotPossible:
        if not call.rollout.events.filter(kind=kind).exists():
            raise
        return Outcome(False, f"Nothing changed: it was {kind.label.lower()} already.")
    return Outcome(True, text)


def _clone(call: Call) -> Outcome:
    other, is_dry = chosen_options(call.options), call.options["dry_run"]
    devices, options = rollouts.rest_of(call.rollout), rollouts.options_of(call.rollout, **other)
    try:
        if not is_dry:
            made, plan = rollouts.clone(call.rollout, call.now, call.user, call.remark, **other)
            more = {"dry_run": False, "clone_id": made.pk, **plan.as_json()}
            done = "needs approval" if plan.needs_approval else "was started"
            text = f"Rollout {made.pk} {done}.{_newer(call, plan)}"
            return Outcome(True, text, more, tuple(plan_shown(more)))
        plan = rollouts.plan(devices, options, call.now)
    except NothingToUpgrade:
        plan = rollouts.plan(devices, options, call.now)
    more = {"dry_run": is_dry, "clone_id": None, **plan.as_json()}
    is_empty = not plan.tasks
    refused = would_be_refused(plan, options, call.user)
    text = "Nothing to upgrade." if is_empty else refused or "This would be started."
    text += _newer(call, plan)
    return Outcome(False, text, more, tuple(plan_shown(more)), is_as_asked=is_dry and not is_empty)


def _newer(call: Call, plan: Plan) -> str:
    """How to go back as the rollout did: that was allowed for other devices, and has to be said again."""
    newer = sum(left_out.reason.code == "downgrade" for left_out in plan.excluded)
    if not newer or not call.rollout.allow_downgrade:
        return ""
    return f" Left out as newer: {newer}; --allow-downgrade takes such devices too."


# Arguments


def _add_reason(parser: CommandParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who see it")


def _add_sns(parser: CommandParser) -> None:
    parser.add_argument(
        "--sn", nargs="+", action="extend", help="only these docks, or docks of these aircraft"
    )


def _add_wave(parser: CommandParser) -> None:
    parser.add_argument(
        "--wave", type=int, metavar="N",
        help="only if this is the next one; so that a call made twice opens one wave",
    )  # fmt: skip


def _add_deadline(parser: CommandParser) -> None:
    parser.add_argument(
        "--deadline", dest="deadline_at", type=moment, metavar="TIME", required=True,
        help="ISO 8601; 'none' removes it",
    )  # fmt: skip


def _add_changes(parser: CommandParser) -> None:
    parser.add_argument(
        "--name", type=str.strip, default=argparse.SUPPRESS, help="what it is called"
    )
    add_policy(parser, CHANGEABLE)
    add_times(parser)


def _add_remark(parser: CommandParser) -> None:
    parser.add_argument("--remark", default="", metavar="TEXT", help="why, for the history")


VERBS = {
    "show": Verb("shows policy, waves, what needs attention, and the history", _show),
    "pause": Verb("issues nothing more until it is resumed", _pause, _add_reason),
    "resume": Verb("goes on after a pause", _resume, wakes=True),
    "cancel": Verb("cancels what was not issued", _cancel, wakes=True, empty={"canceled": 0}),
    "close": Verb("lets nobody join any more that stays open", _close, wakes=True),
    "retry": Verb(
        "plans again what failed",
        _retry,
        _add_sns,
        wakes=True,
        empty={"retried": [], "left_out": []},
    ),
    "dismiss": Verb("takes what failed off what needs attention", _dismiss, _add_sns),
    "open-wave": Verb(
        "opens the next wave now", _open_wave, _add_wave, wakes=True, empty={"wave": None}
    ),
    "extend": Verb("moves the deadline", _extend, _add_deadline, wakes=True, empty={"changes": []}),
    "change": Verb(
        "changes limits, hours, gates …", _change, _add_changes, wakes=True, empty={"changes": []}
    ),
    "approve": Verb("lets it start", _approve, _add_remark, APPROVE, wakes=True),
    "deny": Verb("cancels it instead of approving it", _deny, _add_remark, APPROVE),
    "clone": Verb("the same for the rest of the fleet", _clone, add_launch, wakes=True),
}
