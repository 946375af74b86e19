"""Upgrade tasks in the console: the list, and the page with a task's whole history."""

import json
import re
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import Exists, OuterRef, QuerySet, prefetch_related_objects
from django.forms import Script
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from console.buttons import pressed_on
from console.filters import ValueFilter
from console.keys import is_key
from console.labels import NOTHING, ago, label, link
from console.lists import ListAdmin
from console.paging import BoundedPaginator, PagedChangeList
from fleet.models import Device
from ota import downloads, errors, rollouts, rows, states
from ota.admin.rollout_verbs import UPGRADE
from ota.models import FirmwarePackage, Rollout, TaskEvent, UpgradeTarget, UpgradeTask
from ota.states import TaskStatus

if TYPE_CHECKING:
    from django.contrib.admin import SimpleListFilter as DropdownFilter
else:
    from unfold.contrib.filters.admin import DropdownFilter  # untyped; extends Django's

EVENTS = 100  # a page
MANY = 1000  # docks that a search names one by one
BID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
NEWEST = 20  # rollouts that the filter offers


class RolloutFilter(DropdownFilter):
    """The newest rollouts; any other is chosen by a link from its page."""

    title = "rollout"
    parameter_name = "rollout"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        found = [(str(pk), name) for pk, name in Rollout.objects.values_list("pk", "name")[:NEWEST]]
        chosen = self.value()
        if chosen and chosen not in dict(found):
            found.append((chosen, f"Rollout {chosen}"))
        return found

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        if not chosen:
            return queryset
        return queryset.filter(rollout=chosen) if is_key(chosen) else queryset.none()


class PackageFilter(DropdownFilter):
    """The tasks of one package, as its page links to them."""

    title = "package"
    parameter_name = "package"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        is_used = Exists(UpgradeTarget.objects.filter(package=OuterRef("pk")))
        found = FirmwarePackage.objects.filter(is_used).order_by("-pk")
        return [(str(package.pk), str(package)) for package in found]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        if not chosen:
            return queryset
        if not is_key(chosen):
            return queryset.none()
        tasks = UpgradeTarget.objects.filter(package=int(chosen)).values("task")
        return queryset.filter(pk__in=tasks)


@admin.register(UpgradeTask)
class UpgradeTaskAdmin(ListAdmin[UpgradeTask]):
    """History: nobody adds, changes or deletes a task here."""

    when_empty = "Tasks come with rollouts: choose devices, and take “Upgrade firmware…”."
    list_display = ["dock", "state", "rollout_link", "done", "attempt", "sent", "finished"]
    list_filter = [("status", ValueFilter), RolloutFilter, PackageFilter]
    list_filter_submit = True
    list_select_related = ["gateway", "rollout"]
    list_per_page = 50
    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    search_fields = ["gateway__sn", "gateway__callsign", "bid"]
    search_help_text = "Serial number or callsign of the dock, or a whole bid"
    show_full_result_count = False
    fields = ["bid"]  # the page shows the rest in its own way

    class Media:
        css = {"all": ["ota/rollout.css"]}
        js = [Script("ota/rollout.js", defer=True)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UpgradeTask | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UpgradeTask | None = None) -> bool:
        return False

    @admin.display(description="Dock", ordering="gateway__sn")
    def dock(self, task: UpgradeTask) -> str:
        return str(task.gateway)

    @admin.display(description="Status", ordering="status")
    def state(self, task: UpgradeTask) -> SafeString:
        return label(task.get_status_display(), states.COLOURS.get(task.status, ""))

    @admin.display(description="Rollout", ordering="rollout")
    def rollout_link(self, task: UpgradeTask) -> SafeString:
        return link(reverse("admin:ota_rollout_change", args=[task.rollout_id]), task.rollout)

    @admin.display(description="Percent", ordering="percent")
    def done(self, task: UpgradeTask) -> str | SafeString:
        return NOTHING if task.percent is None else f"{task.percent} %"

    @admin.display(description="Sent", ordering="sent_at")
    def sent(self, task: UpgradeTask) -> SafeString:
        return ago(task.sent_at) if task.sent_at else NOTHING

    @admin.display(description="Finished", ordering="finished_at")
    def finished(self, task: UpgradeTask) -> SafeString:
        return ago(task.finished_at) if task.finished_at else NOTHING

    def get_queryset(self, request: HttpRequest) -> QuerySet[UpgradeTask]:
        found: QuerySet[UpgradeTask] = super().get_queryset(request)
        return found.select_related("gateway", "rollout", "wave")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PagedChangeList]:
        return PagedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UpgradeTask], search_term: str
    ) -> tuple[QuerySet[UpgradeTask], bool]:
        """Looks for the docks first: they are few beside their tasks."""
        text = search_term.strip()
        if not text:
            return queryset, False
        if BID.fullmatch(text):
            return queryset.filter(bid=text.lower()), False
        docks = Device.objects.named(text).order_by().values_list("pk", flat=True)
        first = list(docks[: MANY + 1])
        return queryset.filter(gateway__in=first if len(first) <= MANY else docks), False

    def get_urls(self) -> list[URLPattern]:
        cancel = pressed_on("admin:ota_upgradetask_change", self.cancel)
        view = self.admin_site.admin_view(cancel)
        own = path("<int:pk>/cancel/", view, name="ota_upgradetask_cancel")
        return [own, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        task: UpgradeTask = context["original"]
        user = request.user
        context |= _page(task, request.GET.get("page")) | {
            "may_cancel": user.has_perm(UPGRADE) and task.status == TaskStatus.PENDING,
            "may_settle": user.has_perm(UPGRADE)
            and user.has_perm("ota.view_rollout")
            and task.needs_attention,
            "may_watch": user.has_perm("ota.view_rollout"),
        }
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def cancel(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Calls off a task that waits."""
        if not (self.has_view_permission(request) and request.user.has_perm(UPGRADE)):
            raise PermissionDenied
        task = get_object_or_404(UpgradeTask, pk=pk)
        if rollouts.cancel_tasks([pk], timezone.now(), request.user):  # type: ignore[arg-type]
            task.refresh_from_db(fields=["status"])
            said = f"Called off while it waited: {task.get_status_display()}."
            self.log_change(request, task, said)
            self.message_user(request, _called_off(task), messages.SUCCESS)
        else:
            text = (
                "Not canceled: it does not wait any more, and a running upgrade cannot be stopped."
            )
            self.message_user(request, text, messages.WARNING)
        return redirect("admin:ota_upgradetask_change", pk)


def _called_off(task: UpgradeTask) -> str:
    """What became of it: only what was never sent is canceled."""
    if task.status == TaskStatus.CANCELED:
        return "Canceled."
    return (
        f"It is not sent again. It had been sent before, so it is “{task.get_status_display()}” now "
        "and needs attention."
    )


def _page(task: UpgradeTask, wanted: str | None) -> dict[str, Any]:
    """What the page shows: a handful of queries, however long the history."""
    events = _events(task, wanted)
    prefetch_related_objects(
        [task], "targets__device__model", "targets__package", "downloads__package"
    )
    row = rows.in_words([task], task.rollout)[0]
    return {
        "title": str(task),
        "subtitle": None,
        "show_history": False,  # the page is the history
        "row": row,
        "stamp": json.dumps(row),  # what the page shows, as the websocket tells it
        "retried_as": getattr(task, "retried_as", None),
        "targets": task.targets.all(),
        "downloads": _downloads(task) if task.attempt else [],
        "events": [_line(event) for event in events],
        "page": events,
        "folded": _folded(task),
        "socket": f"/ws/rollouts/{task.rollout_id}/?task={task.pk}",
    }


def _downloads(task: UpgradeTask) -> list[dict[str, Any]]:
    """What the dock has fetched of each package, also while it reports nothing."""
    found = {download.package_id: download for download in task.downloads.all()}
    packages = {target.package_id: target.package for target in task.targets.all()}
    return [
        {
            "package": package,
            "download": found.get(pk),
            "text": downloads.in_words(package, found.get(pk), timezone.now()),
        }
        for pk, package in packages.items()
    ]


def _events(task: UpgradeTask, wanted: str | None) -> Page[TaskEvent]:
    """A page of the history in its order; the last one, the newest, if none is asked for."""
    paginator = Paginator(task.events.select_related("actor").order_by("pk"), EVENTS)
    return paginator.get_page(wanted if wanted is not None else paginator.num_pages)


def _folded(task: UpgradeTask) -> dict[str, Any] | None:
    """What is left of old progress reports: how many there were, and which."""
    groups = list(task.folded.all())
    if not groups:
        return None
    return {
        "reports": sum(group.reports for group in groups),
        "first_at": min(group.first_at for group in groups),
        "last_at": max(group.last_at for group in groups),
        "groups": [(group, errors.advice(group.result)) for group in groups],
    }


def _line(event: TaskEvent) -> dict[str, Any]:
    """A line of the history, in words."""
    reported = [
        "" if event.percent is None else f"{event.percent} %",
        rows.step(event.step),
        rows.rate(event.rate),
    ]
    advice = errors.advice(event.result)
    return {
        "event": event,
        "from_status": _status(event.from_status),
        "to_status": _status(event.to_status),
        "colour": states.COLOURS.get(event.to_status, ""),
        "progress": " · ".join(part for part in reported if part),
        "advice": advice,
        "text": event.text if event.text != advice else "",
    }


def _status(word: str) -> str:
    return str(TaskStatus(word).label) if word in TaskStatus.values else word
