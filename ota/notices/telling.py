"""What happened becomes news, and the news becomes notices and deliveries: rows only.

The rows are the queue. Each step takes what nobody has taken, under a lock, and may be run by two at once,
late or twice.
"""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef

from database import bulk
from ota import errors
from ota.errors import Remedy
from ota.models import (
    FirmwarePackage,
    News,
    Notice,
    Rollout,
    RolloutEvent,
    UpgradeTask,
    Webhook,
    WebhookDelivery,
)
from ota.models.notices import Kind
from ota.moments import moment
from ota.notices.shared import Shared, ended
from ota.notices.wishes import People
from ota.states import TaskStatus

MOST = 500  # of each in one tick; the next one goes on
# A dock that failed earlier and was not told is no news any more.
RECENT = dt.timedelta(days=1)
KEPT = dt.timedelta(days=90)
KEPT_DELIVERIES = dt.timedelta(days=30)
_REMOVED_AT_ONCE = 5000

_ON_SITE = errors.results_with(Remedy.ON_SITE)
_KINDS = {
    RolloutEvent.Kind.STARTED: Kind.STARTED,
    RolloutEvent.Kind.APPROVED: Kind.STARTED,
    RolloutEvent.Kind.STOPPED: Kind.STOPPED,
    RolloutEvent.Kind.STANDSTILL: Kind.STANDSTILL,
    RolloutEvent.Kind.NEEDS_APPROVAL: Kind.NEEDS_APPROVAL,
    RolloutEvent.Kind.WAVE_WAITING: Kind.WAVE_WAITING,
    RolloutEvent.Kind.FINISHED: Kind.FINISHED,
}


def tell(now: dt.datetime) -> None:
    """Makes news of what happened, and notices and deliveries of the news."""
    with transaction.atomic():
        _tell_events(now)
    with transaction.atomic():
        _tell_tasks(now)
    with transaction.atomic():
        _spread(now)


def damaged(package: FirmwarePackage, problem: str, now: dt.datetime) -> None:
    """Makes news of a package whose bytes are not what they were; told with the next tick."""
    News.objects.create(
        kind=Kind.DAMAGED,
        at=now,
        package=package,
        title=f"Package {package} is damaged"[:300],
        text=problem[:500],
    )


def forget(now: dt.datetime) -> None:
    """Removes news and deliveries that are too old to matter; some thousand at a time."""
    sent = WebhookDelivery.objects.filter(created_at__lt=now - KEPT_DELIVERIES).order_by()
    keys = list(sent.values_list("pk", flat=True)[:_REMOVED_AT_ONCE])
    WebhookDelivery.objects.filter(pk__in=keys).delete()
    old = News.objects.filter(at__lt=now - KEPT).order_by()
    News.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:_REMOVED_AT_ONCE])).delete()


# From what happened to news


def _tell_events(now: dt.datetime) -> None:
    untold = RolloutEvent.objects.filter(told_at=None).order_by("pk")
    events = list(
        untold.select_for_update(skip_locked=True, of=("self",)).select_related("rollout", "actor")[
            :MOST
        ]
    )
    if not events:
        return
    told = [event for event in events if event.kind in _KINDS]
    ended = {event.rollout_id for event in told if event.kind == RolloutEvent.Kind.FINISHED}
    counts = _counts(ended)
    bulk.insert(_news(event, counts) for event in told)
    RolloutEvent.objects.filter(pk__in=[event.pk for event in events]).update(told_at=now)


def _counts(rollouts: Collection[int]) -> Mapping[int, Counter[str]]:
    """How the tasks of rollouts ended, those that were retried left aside; one query."""
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    if rollouts:
        tasks = UpgradeTask.objects.filter(rollout__in=rollouts).not_retried().order_by()
        rows = tasks.values_list("rollout", "status").annotate(Count("pk"))
        for rollout, status, count in rows:
            found[rollout][status] = count
    return found


def _news(event: RolloutEvent, counts: Mapping[int, Counter[str]]) -> News:
    text = event.text
    if event.kind == RolloutEvent.Kind.FINISHED:
        text = ended(counts[event.rollout_id])
    return News(
        kind=_KINDS[RolloutEvent.Kind(event.kind)],
        at=event.at,
        rollout=event.rollout,
        title=_title(event)[:300],
        text=text[:500],
    )


def _title(event: RolloutEvent) -> str:
    name = event.rollout.name
    begins = _begins(event)
    if event.kind == RolloutEvent.Kind.FINISHED:
        was_canceled = event.rollout.status == Rollout.Status.CANCELED
        return f"{name} was canceled and has ended" if was_canceled else f"{name} has finished"
    return {
        RolloutEvent.Kind.STARTED: f"{name} {begins}",
        RolloutEvent.Kind.APPROVED: f"{name} was approved by {event.actor} and {begins}",
        RolloutEvent.Kind.STOPPED: f"{name} has paused by itself",
        RolloutEvent.Kind.STANDSTILL: f"{name} has stood still for a day",
        RolloutEvent.Kind.NEEDS_APPROVAL: f"{name} needs approval",
        RolloutEvent.Kind.WAVE_WAITING: f"{name} waits for a click",
    }[RolloutEvent.Kind(event.kind)]


def _begins(event: RolloutEvent) -> str:
    starts_at = event.rollout.starts_at
    if starts_at and starts_at > event.at:
        return f"starts at {moment(starts_at)}"
    return "has started"


def _tell_tasks(now: dt.datetime) -> None:
    """Docks that need a person; the database refuses a second line about a task."""
    untold = (
        UpgradeTask.objects.needing_attention()
        .filter(finished_at__gt=now - RECENT)
        .exclude(Exists(News.objects.filter(task=OuterRef("pk"))))
        .select_related("gateway__site")
        .order_by("finished_at")
    )
    # One after the other: each has an index of its own.
    on_site = untold.filter(result__in=_ON_SITE, result__gt=0)[:MOST]
    in_doubt = untold.filter(status=TaskStatus.TIMEOUT).exclude(result__in=_ON_SITE)[:MOST]
    news = [_on_site(task, now) for task in on_site] + [_in_doubt(task, now) for task in in_doubt]
    bulk.insert(news, ignore_conflicts=True)


def _on_site(task: UpgradeTask, now: dt.datetime) -> News:
    return _of_task(task, "needs a person on site", task.advice or "", now)


def _in_doubt(task: UpgradeTask, now: dt.datetime) -> News:
    """Nobody knows what its command did."""
    return _of_task(task, "needs somebody to look at it", task.message, now)


def _of_task(task: UpgradeTask, needs: str, text: str, now: dt.datetime) -> News:
    where = f" at {task.gateway.site}" if task.gateway.site else ""
    return News(
        kind=Kind.ON_SITE,
        at=task.finished_at or now,
        rollout_id=task.rollout_id,
        task=task,
        title=f"{task.gateway}{where} {needs}"[:300],
        text=text[:500],
    )


# From news to people and other systems


def _spread(now: dt.datetime) -> None:
    untold = News.objects.filter(told_at=None).order_by("pk")
    news = list(
        untold.select_for_update(skip_locked=True, of=("self",)).select_related("rollout")[:MOST]
    )
    if not news:
        return
    organizations = _organizations(news)
    people = People()
    bulk.insert(
        Notice(
            user=wanted.user,
            news=one,
            at=one.at,
            is_shown=wanted.in_console,
            mail_at=now if wanted.by_email and wanted.user.email and settings.SENDS_EMAIL else None,
        )
        for one in news
        for wanted in people.who_want(one, organizations[one.pk])
    )
    WebhookDelivery.objects.bulk_create(
        _deliveries(news, organizations, now)
    )  # with keys of their own
    News.objects.filter(pk__in=[one.pk for one in news]).update(told_at=now)


def _organizations(news: Sequence[News]) -> Mapping[int, Collection[int]]:
    """Whose docks each of the news is about, by its key; none for a package."""
    tasks = UpgradeTask.objects.filter(organization__isnull=False).order_by()
    whole = {one.rollout_id for one in news if one.rollout_id and not one.task_id}
    by_rollout: defaultdict[int | None, set[int]] = defaultdict(set)
    rows = tasks.filter(rollout__in=whole).values_list("rollout", "organization")
    for rollout, organization in rows.distinct():
        by_rollout[rollout].add(organization)
    single = {one.task_id for one in news if one.task_id}
    by_task: defaultdict[int, set[int]] = defaultdict(set)
    for task, organization in tasks.filter(pk__in=single).values_list("pk", "organization"):
        by_task[task].add(organization)
    return {
        one.pk: by_task[one.task_id] if one.task_id else by_rollout[one.rollout_id] for one in news
    }


def _deliveries(
    news: Sequence[News], organizations: Mapping[int, Collection[int]], now: dt.datetime
) -> Iterable[WebhookDelivery]:
    """A damaged package may be needed by the docks of any organization."""
    shared = Shared(one for one in news if len(organizations[one.pk]) > 1)
    for webhook in Webhook.objects.filter(is_active=True).select_related("organization"):
        for one in news:
            concerns = one.package_id or webhook.organization_id in organizations[one.pk]
            if concerns and one.kind in webhook.kinds:
                yield WebhookDelivery(
                    webhook=webhook,
                    news=one,
                    text=shared.text(one, webhook.organization),
                    created_at=now,
                    next_at=now,
                )
