"""Which status follows which, which ones end a task, and how each is shown.

The device's own words keep their spelling (Cloud API: ota_progress). Ours are ``pending``, before
the command, and ``verifying``, after the device's ``ok`` or its silence and until the reported
version proves it. ``ok`` means proven. ``canceled`` is what was never sent; a dock that says it has
failed.
"""

import functools

from django.db import models


class TaskStatus(models.TextChoices):
    PENDING = "pending", "Pending"
    SENT = "sent", "Sent"
    IN_PROGRESS = "in_progress", "In progress"
    PAUSED = "paused", "Paused by the device"
    VERIFYING = "verifying", "Verifying"
    OK = "ok", "Proven"
    FAILED = "failed", "Failed"
    REJECTED = "rejected", "Rejected"
    CANCELED = "canceled", "Canceled"
    TIMEOUT = "timeout", "Timed out"


_S = TaskStatus

TERMINAL = frozenset({_S.OK, _S.FAILED, _S.REJECTED, _S.CANCELED, _S.TIMEOUT})
OPEN = frozenset(set(_S) - TERMINAL)
IN_FLIGHT = OPEN - {_S.PENDING}
FINISHED = TERMINAL - {_S.CANCELED}  # what shares of success are counted over
UNSUCCESSFUL = TERMINAL - {_S.OK, _S.CANCELED}

# ``pending`` after ``sent``: the broker was away, or nobody answered and the command goes out again;
# from there a late answer to the first one leads on like from ``sent``. ``pending`` after the others:
# it failed in a way that deserves another attempt.
# ``in_progress`` after ``verifying``: the device was only silent and goes on.
_NEXT: dict[TaskStatus, frozenset[TaskStatus]] = {
    _S.PENDING: frozenset({_S.SENT, _S.IN_PROGRESS, _S.PAUSED, _S.VERIFYING} | TERMINAL),
    _S.SENT: frozenset({_S.PENDING, _S.IN_PROGRESS, _S.PAUSED, _S.VERIFYING} | TERMINAL),
    _S.IN_PROGRESS: frozenset({_S.PENDING, _S.PAUSED, _S.VERIFYING} | TERMINAL),
    _S.PAUSED: frozenset({_S.PENDING, _S.IN_PROGRESS, _S.VERIFYING} | TERMINAL),
    _S.VERIFYING: frozenset({_S.PENDING, _S.IN_PROGRESS, _S.PAUSED} | TERMINAL),
}


@functools.cache
def sources(target: str) -> frozenset[TaskStatus]:
    """The statuses from which a task may move to the target."""
    return frozenset(status for status, following in _NEXT.items() if target in following)


class RolloutStatus(models.TextChoices):
    NEEDS_APPROVAL = "needs_approval", "Needs approval"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    FINISHED = "finished", "Finished"
    CANCELED = "canceled", "Canceled"


# A rollout that has not ended, whatever holds it back.
UNFINISHED = frozenset({RolloutStatus.NEEDS_APPROVAL, RolloutStatus.RUNNING, RolloutStatus.PAUSED})


class PackageState(models.TextChoices):
    DRAFT = "draft", "Draft"
    CHECKING = "checking", "Checking"
    AVAILABLE = "available", "Available"
    WITHDRAWN = "withdrawn", "Withdrawn"


# The label's look in the console: unfold knows these names.
COLOURS: dict[str, str] = {
    _S.SENT: "info",
    _S.IN_PROGRESS: "info",
    _S.PAUSED: "warning",
    _S.VERIFYING: "info",
    _S.OK: "success",
    _S.FAILED: "danger",
    _S.REJECTED: "danger",
    _S.TIMEOUT: "danger",
    RolloutStatus.RUNNING: "info",
    RolloutStatus.NEEDS_APPROVAL: "warning",
    RolloutStatus.PAUSED: "warning",
    RolloutStatus.FINISHED: "success",
    PackageState.CHECKING: "info",
    PackageState.AVAILABLE: "success",
    PackageState.WITHDRAWN: "danger",
}
