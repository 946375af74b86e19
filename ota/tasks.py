"""What the clock and the workers do for upgrades.

The database is the queue: each of these may run twice, late or never, and the next tick puts it
right.
"""

from collections.abc import Sequence

from celery import shared_task
from django.utils import timezone

from ota import rollouts
from ota.models import UpgradeTask
from ota.states import TaskStatus
from ota.upgrades import issue as issuing
from ota.upgrades import limits, proof

CHUNK = 100


@shared_task
def advance() -> None:
    """One tick: proofs, limits of time, what may go now, what is finished."""
    now = timezone.now()
    proof.confirm(UpgradeTask.objects.filter(status=TaskStatus.VERIFYING), now)
    limits.enforce(now)
    issuing.look_again(now)
    ready = issuing.due(now)
    for start in range(0, len(ready), CHUNK):
        issue.delay(ready[start : start + CHUNK])
    rollouts.finish(now)


@shared_task
def issue(pks: Sequence[int]) -> None:
    """Sends the commands of a chunk of tasks."""
    issuing.issue(pks, timezone.now())
