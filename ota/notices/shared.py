"""News of rollouts with docks of several organizations: what the system of each is told, and no more."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from django.db.models import Count

from console.counts import count
from fleet.models import Organization
from ota.models import News, UpgradeTask
from ota.models.notices import Kind
from ota.states import FINISHED, OPEN, UNSUCCESSFUL, TaskStatus

NAMED = 5  # docks to look at

_Key = tuple[int | None, int | None]  # rollout and organization


def ended(counts: Counter[str]) -> str:
    """How many tasks ended how, such as ``3 proven, 1 failed``."""
    parts = [
        f"{counts[status]:,} {TaskStatus(status).label.lower()}"
        for status in TaskStatus
        if counts[status]
    ]
    return ", ".join(parts)


class Shared:
    """What the news of such rollouts means for each organization; two queries for any number of them."""

    def __init__(self, news: Iterable[News]) -> None:
        self._news = {one.pk: one for one in news}
        rollouts = {one.rollout_id for one in self._news.values()}
        self._counts: defaultdict[_Key, Counter[str]] = defaultdict(Counter)
        self._failed: defaultdict[_Key, list[str]] = defaultdict(list)
        if rollouts:
            self._read(rollouts)

    def _read(self, rollouts: set[int | None]) -> None:
        tasks = UpgradeTask.objects.filter(rollout__in=rollouts, retried_as=None).order_by()
        keys = ("rollout", "organization")
        for rollout, owner, status, number in tasks.values_list(*keys, "status").annotate(
            Count("pk")
        ):
            self._counts[rollout, owner][status] = number
        failed = tasks.needing_attention().order_by("-finished_at")
        for rollout, owner, sn in failed.values_list(*keys, "gateway__sn"):
            if len(self._failed[rollout, owner]) < NAMED:
                self._failed[rollout, owner].append(sn)

    def text(self, one: News, organization: Organization) -> str:
        """What an organization's system is told; all of it where nobody else's docks are concerned."""
        if one.pk not in self._news or one.kind == Kind.WAVE_WAITING:
            return one.text
        counts = self._counts[one.rollout_id, organization.pk]
        if one.kind == Kind.FINISHED:
            return ended(counts)
        if one.kind == Kind.STOPPED:
            return self._stopped(one, organization, counts)
        docks = (
            sum(counts[status] for status in OPEN)
            if one.kind == Kind.STANDSTILL
            else sum(counts.values())
        )
        return f"{count(docks, 'dock')} of {organization}"

    def _stopped(self, one: News, organization: Organization, counts: Counter[str]) -> str:
        """Why it has stopped may be told by the docks of others."""
        finished = sum(counts[status] for status in FINISHED)
        failed = sum(counts[status] for status in UNSUCCESSFUL)
        text = f"nothing more is sent; {failed:,} of {finished:,} finished upgrades of {organization} failed"
        sns = self._failed[one.rollout_id, organization.pk]
        return f"{text}. Look at {', '.join(sns)}." if sns else text
