"""How many more tasks may be in flight: by rollout, by site, in all."""

from collections import Counter
from collections.abc import Iterable

from django.conf import settings
from django.db.models import Count

from ota.models import Rollout, UpgradeTask


class Slots:
    """What the limits leave, from the rows that are in flight; counted by the database."""

    def __init__(self, rollouts: Iterable[Rollout]) -> None:
        self._rollouts = {rollout.pk: rollout for rollout in rollouts}
        flying = UpgradeTask.objects.in_flight().order_by()
        by_rollout = flying.values_list("rollout").annotate(Count("pk"))
        self._by_rollout = Counter(dict(by_rollout))
        self._all = self._by_rollout.total()
        self._by_site: Counter[int] = Counter()
        if any(rollout.limit_per_site is not None for rollout in self._rollouts.values()):
            by_site = flying.filter(gateway__site__isnull=False).values_list("gateway__site")
            self._by_site.update(dict(by_site.annotate(Count("pk"))))

    def take(self, rollout_id: int, site_id: int | None) -> bool:
        """Takes a slot, if there is one for a task of this rollout at this site."""
        rollout = self._rollouts.get(rollout_id)
        if rollout is None or self._by_rollout[rollout_id] >= rollout.limit_in_flight:
            return False
        most = rollout.limit_per_site
        if most is not None and site_id and self._by_site[site_id] >= most:
            return False
        if settings.SYSTEM_LIMIT_IN_FLIGHT and self._all >= settings.SYSTEM_LIMIT_IN_FLIGHT:
            return False
        self._by_rollout[rollout_id] += 1
        self._by_site[site_id or 0] += 1
        self._all += 1
        return True
