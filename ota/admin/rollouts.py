"""Rollouts in the console: the list, and the page that shows a rollout as it runs."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.forms import Script
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from console.buttons import pressed_on
from console.filters import ValueFilter
from console.labels import NOTHING, ago, label, two_lines
from console.lists import CheckedChangeList, ListAdmin
from ota import rollouts, rows, states, status, terms
from ota.admin import clones, report, rollout_verbs
from ota.admin.rollout_forms import FORMS, ChangeForm
from ota.admin.rollout_verbs import VERBS, Press
from ota.models import Rollout
from ota.rows import PARTS, Counts, Filter, View
from ota.states import TaskStatus

LISTED = 50  # lines of the history, and failures


class CountedChangeList(CheckedChangeList):
    """A list whose rollouts know the counts of their tasks and their author; three queries a page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        found, authors = rows.counts(self.result_list), status.authors(self.result_list)
        for rollout in self.result_list:
            rollout.counts, rollout.author = found[rollout.pk], authors[rollout.pk]


def bar(counts: Counts) -> SafeString:
    """The shares of a rollout's tasks as one bar; their numbers stand in its title."""
    parts = [(colour, name, rows.total(counts, statuses)) for colour, name, statuses in PARTS]
    found = [(colour, name, number) for colour, name, number in parts if number]
    title = ", ".join(f"{number:,} {name}" for _, name, number in found)
    inside = format_html_join(
        "",
        '<span data-colour="{}" style="flex-grow: {}"></span>',
        ((colour, number) for colour, _, number in found),
    )
    return format_html('<span class="ota-bar" title="{}">{}</span>', title, inside)


@admin.register(Rollout)
class RolloutAdmin(ListAdmin[Rollout]):
    """Rollouts start with an action on devices; here they are watched, paused and canceled."""

    when_empty = "Choose devices in the list of devices, and take “Upgrade firmware…”."
    list_display = ["name", "state", "progress", "target", "author", "created"]
    list_filter = [("status", ValueFilter)]
    list_filter_submit = True
    list_select_related = ["created_by"]
    list_per_page = 50
    search_fields = ["name", "created_by__username"]
    show_full_result_count = False
    fields = ["name"]  # the page shows the rest in its own way

    class Media:
        css = {"all": ["ota/rollout.css"]}
        js = [Script("ota/rollout.js", defer=True), Script("ota/once.js", defer=True)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Rollout | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Rollout | None = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[CountedChangeList]:
        return CountedChangeList

    @admin.display(description="Status", ordering="status")
    def state(self, rollout: Rollout) -> SafeString:
        shown = label(rollout.get_status_display(), states.COLOURS.get(rollout.status, ""))
        return two_lines(shown, status.pause_reason(rollout))

    @admin.display(description="Tasks")
    def progress(self, rollout: Any) -> SafeString:
        found = rollout.counts
        return format_html('<span class="ota-counts">{}{}</span>', rows.summary(found), bar(found))

    @admin.display(description="Target", ordering="target_version")
    def target(self, rollout: Rollout) -> str:
        return rollout.target_version or "one for each model"

    @admin.display(description="Author", ordering="created_by__username")
    def author(self, rollout: Any) -> str | SafeString:
        return rollout.author or NOTHING

    @admin.display(description="Created", ordering="created_at")
    def created(self, rollout: Rollout) -> SafeString:
        return ago(rollout.created_at)

    def get_urls(self) -> list[URLPattern]:
        press = self.admin_site.admin_view(pressed_on("admin:ota_rollout_change", self.press))
        own = [
            path(f"<int:pk>/{name}/", press, {"name": name}, name=f"ota_rollout_{name}")
            for name in VERBS
        ]
        report = self.admin_site.admin_view(self.report)
        own.append(path("<int:pk>/report/", report, name="ota_rollout_report"))
        return [*own, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        rollout: Rollout = context["original"]
        context |= _page(rollout, request) | _more(rollout, request)
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def press(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Does to a rollout what a button says, tells what became of it, and shows the rollout."""
        verb, user = VERBS[name], request.user
        may_press = self.has_view_permission(request) and user.has_perm(verb.permission)
        if not (may_press and isinstance(user, User)):
            raise PermissionDenied
        rollout = get_object_or_404(Rollout, pk=pk)
        given = Press(rollout, user, timezone.now(), request.POST)
        outcome = rollout_verbs.press(verb, given)
        if outcome.is_done:
            self.log_change(request, rollout, outcome.log)
        level = messages.SUCCESS if outcome.is_done else messages.WARNING
        self.message_user(request, outcome.text, level)
        if outcome.form:
            page = reverse("admin:ota_rollout_change", args=[pk])
            return redirect(f"{page}?{outcome.form.urlencoded()}")
        if request.POST.get("back") == "task" and given.tasks:
            return redirect("admin:ota_upgradetask_change", given.tasks[0])
        return redirect("admin:ota_rollout_change", pk)

    def report(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """What became of a rollout, to print or, with ``?format=csv``, for other programs."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rollout = get_object_or_404(Rollout.objects.select_related("created_by"), pk=pk)
        if request.GET.get("format") == "csv":
            return report.as_csv(request, rollout)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Report of {rollout}",
            **report.page(rollout, request.GET.get("page", "1")),
        }
        return TemplateResponse(request, "admin/ota/rollout/report.html", context)


def _page(rollout: Rollout, request: HttpRequest) -> dict[str, Any]:
    """What the page shows, before it is live and without JavaScript."""
    try:
        wanted = rows.view(request.GET.dict())._replace(task=0)
    except ValueError:
        wanted = View()
    document = rows.full(rollout.pk, wanted).document
    counts: Counts = document["counts"]
    return document | {
        "title": rollout.name,
        "subtitle": None,
        "filters": [_choice(choice, counts, wanted) for choice in rows.FILTERS.values()],
        "parts": [_part(*part, document["shares"]) for part in PARTS],
        "waiting": counts[TaskStatus.PENDING],
        "empty_row": {"targets": [{}]},
        "socket": f"/ws/rollouts/{rollout.pk}/",
    }


def _more(rollout: Rollout, request: HttpRequest) -> dict[str, Any]:
    """What was decided and done, what needs attention, and what this user may do about it."""
    user = request.user
    is_others = rollout.created_by_id != user.pk
    failed = rollout.tasks.needing_attention().order_by("-finished_at", "-pk")
    keys = list(failed.values_list("pk", flat=True))
    parked = failed.select_related("gateway", "rollout", "wave").filter(pk__in=keys[:LISTED])
    events = rollout.events.select_related("actor").order_by("-pk")
    closed = rollout.wave_set.filter(opened_at=None).order_by("number")
    return {
        "author": status.authors([rollout])[rollout.pk],
        "terms": terms.of(rollout),
        "may_steer": user.has_perm(rollout_verbs.UPGRADE),
        "rest": clones.address(rollout) if user.has_perm("fleet.view_device") else "",
        "may_decide": user.has_perm(rollout_verbs.APPROVE) and is_others,
        "is_unfinished": rollout.status in states.UNFINISHED,
        "may_stay_open": rollout.criteria.exists(),
        "held": rollouts.held_back(rollout, timezone.now()) if rollout.keeps_open else None,
        "next_wave": closed.values_list("number", flat=True).first(),
        "attention": len(keys),
        "failed": ",".join(map(str, keys)),
        "parked": [(task, rows.note(task, rollout)) for task in parked],
        "parked_more": max(0, len(keys) - LISTED),
        "events": events[:LISTED],
        "event_count": events.count(),
        "forms": {kind.__name__: _form(kind, rollout, request.GET) for kind in FORMS},
        "urls": {
            name.replace("-", "_"): reverse(f"admin:ota_rollout_{name}", args=[rollout.pk])
            for name in (*VERBS, "report")
        },
    }


def _form(kind: type[ChangeForm], rollout: Rollout, sent: QueryDict) -> ChangeForm:
    """With what was sent and could not be taken, if it was this form."""
    return kind(rollout, sent if sent.get("form") == kind.__name__ else None)


def _choice(choice: Filter, counts: Counts, wanted: View) -> dict[str, Any]:
    return {
        "key": choice.key,
        "label": choice.label,
        "statuses": " ".join(sorted(choice.statuses)),
        "count": rows.total(counts, choice.statuses),
        "is_chosen": choice.key == wanted.status,
    }


def _part(
    colour: str, name: str, statuses: frozenset[TaskStatus], counts: Counts
) -> dict[str, Any]:
    return {
        "colour": colour,
        "name": name,
        "statuses": " ".join(sorted(statuses)),
        "count": rows.total(counts, statuses),
    }
