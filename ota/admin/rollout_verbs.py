"""What operators do to a rollout in the console: each press says what became of it."""

import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import QueryDict

from console.counts import count
from ota import rollouts
from ota.admin.rollout_forms import ChangeForm, DeadlineForm, GatesForm, LimitsForm, NameForm
from ota.models import Rollout
from ota.rollouts import InvalidPolicy, NotPossible

UPGRADE = "ota.upgrade_devices"
APPROVE = "ota.approve_rollout"
NAMED = 5  # docks that were left out


class Press(NamedTuple):
    """Who pressed a button on which rollout, and what the form beside it said."""

    rollout: Rollout
    user: User
    now: dt.datetime
    said: QueryDict

    @property
    def remark(self) -> str:
        """In one line, without characters that nobody sees and PostgreSQL may not take."""
        said = self.said.get("remark", "")
        return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:400]

    @property
    def seen(self) -> str:
        """The digest of the rollout that the page showed."""
        return self.said.get("seen", "")

    @property
    def tasks(self) -> list[int]:
        """The tasks that the page named: one, or all that it showed; as far as they can be numbers of ours."""
        said = self.said.get("task", "").split(",")
        return [int(text) for text in said if text.isdecimal() and len(text) < 10]


class Outcome(NamedTuple):
    """What became of it: ``text`` for who pressed, ``log`` for the record.

    ``form`` is what cannot be taken like this.
    """

    is_done: bool
    text: str
    log: str = ""
    form: ChangeForm | None = None


class Verb(NamedTuple):
    """A button, and who may press it."""

    run: Callable[[Press], Outcome]
    permission: str = UPGRADE


def press(verb: Verb, given: Press) -> Outcome:
    """Does it; what is not possible now is an outcome too.

    Raises:
        PermissionDenied: the rollout is of the one who would approve it.
    """
    if verb.permission == APPROVE and given.rollout.created_by_id == given.user.pk:
        raise PermissionDenied
    try:
        return verb.run(given)
    except (NotPossible, InvalidPolicy) as error:
        return Outcome(False, str(error))


def _pause(given: Press) -> Outcome:
    if not rollouts.pause(given.rollout, given.now, given.user):
        return Outcome(False, "It does not run, so it is not paused.")
    text = "Paused: nothing is issued any more. What is running already goes on."
    return Outcome(True, text, "Paused.")


def _resume(given: Press) -> Outcome:
    if not rollouts.resume(given.rollout, given.now, given.user, seen=given.seen):
        return Outcome(False, "It is not paused.")
    log = f"Resumed. It was {given.rollout.pause_reason}"[:500]
    return Outcome(True, "Resumed: what waits is looked at anew.", log)


def _close(given: Press) -> Outcome:
    if not rollouts.close(given.rollout, given.now, given.user):
        return Outcome(False, "It does not stay open.")
    text = "Closed: nobody joins any more. It finishes when all its upgrades are over."
    return Outcome(True, text, "Closed.")


def _keep_open(given: Press) -> Outcome:
    if not rollouts.change(given.rollout, {"keeps_open": True}, given.now, given.user):
        return Outcome(False, "It stays open already.")
    text = "It stays open: devices that come to match join its last wave until somebody closes it."
    return Outcome(True, text, "Kept open.")


def _cancel(given: Press) -> Outcome:
    was_canceled = given.rollout.status == Rollout.Status.CANCELED
    canceled = rollouts.cancel(given.rollout, given.now, given.user)
    given.rollout.refresh_from_db()
    if given.rollout.status != Rollout.Status.CANCELED:
        return Outcome(False, "It has ended; nothing of it is left to cancel.")
    if was_canceled and not canceled:
        return Outcome(False, "It is canceled already.")
    text = rollouts.canceled_in_words(given.rollout, canceled, given.now)
    return Outcome(True, text, text)


def _open_wave(given: Press) -> Outcome:
    wanted = given.said.get("wave", "")
    if not wanted.isdecimal() or len(wanted) > 9:
        return Outcome(False, "Nothing was opened: the page did not say which wave.")
    wave = rollouts.open_next_wave(given.rollout, given.now, given.user, number=int(wanted))
    if wave is None:
        return Outcome(False, f"Wave {wanted} is open already, or not the next one.")
    return Outcome(True, f"Wave {wave.number} is open.", f"Opened wave {wave.number}.")


def _retry(given: Press) -> Outcome:
    made = rollouts.retry(given.rollout, given.now, given.user, given.tasks)
    left_out = _left_out(given)
    if not made:
        return Outcome(False, f"Nothing was planned again{left_out or _SETTLED}.")
    text = f"Planned {count(len(made), 'upgrade')} again{left_out}."
    return Outcome(True, text, text)


_SETTLED = ": it was retried or dismissed already, or its devices report what they should"


def _left_out(given: Press) -> str:
    """The docks whose failure still needs attention after a retry, in words; empty if there is none."""
    left = given.rollout.tasks.needing_attention().filter(pk__among=given.tasks).order_by("pk")
    docks = list(left.values_list("gateway__sn", flat=True))
    if not docks:
        return ""
    more = f" and {len(docks) - NAMED:,} more" if len(docks) > NAMED else ""
    return f"; not {', '.join(docks[:NAMED])}{more}: another upgrade is open"


def _dismiss(given: Press) -> Outcome:
    done = rollouts.dismiss(given.rollout, given.now, given.user, given.tasks)
    if not done:
        return Outcome(False, "Nothing was dismissed: it was retried or dismissed already.")
    text = f"Dismissed {count(done, 'failed upgrade')}."
    return Outcome(True, text, text)


def _extend(given: Press) -> Outcome:
    return _change(given, DeadlineForm)


def _limit(given: Press) -> Outcome:
    return _change(given, LimitsForm)


def _gate(given: Press) -> Outcome:
    return _change(given, GatesForm)


def _rename(given: Press) -> Outcome:
    return _change(given, NameForm)


def _change(given: Press, kind: type[ChangeForm]) -> Outcome:
    form = kind(given.rollout, given.said)
    if not form.is_valid():
        return Outcome(False, "Nothing was changed: please correct what is marked.", form=form)
    told = rollouts.change(given.rollout, form.changes, given.now, given.user)
    if not told:
        return Outcome(False, "Nothing was changed: it is so already.")
    return Outcome(True, "Changed.", f"Changed {'; '.join(told)}."[:500])


def _approve(given: Press) -> Outcome:
    rollouts.approve(given.rollout, given.now, given.user, given.remark, given.seen)
    return Outcome(True, "Approved: it goes on by itself.", f"Approved. {given.remark}".strip())


def _deny(given: Press) -> Outcome:
    rollouts.deny(given.rollout, given.now, given.user, given.remark)
    return Outcome(True, "Denied: nothing is issued.", f"Denied. {given.remark}".strip())


VERBS = {
    "cancel": Verb(_cancel),
    "pause": Verb(_pause),
    "resume": Verb(_resume),
    "close": Verb(_close),
    "keep-open": Verb(_keep_open),
    "open-wave": Verb(_open_wave),
    "retry": Verb(_retry),
    "dismiss": Verb(_dismiss),
    "extend": Verb(_extend),
    "limits": Verb(_limit),
    "gates": Verb(_gate),
    "rename": Verb(_rename),
    "approve": Verb(_approve, APPROVE),
    "deny": Verb(_deny, APPROVE),
}
