"""Rollouts in the console: the list, and the page that shows a rollout as it runs."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.forms import Script
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from fleet.labels import NOTHING, ago, label, two_lines
from ota import rollouts, rows, states, status
from ota.models import Rollout
from ota.rows import PARTS, Counts, Filter, View
from ota.states import TaskStatus

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin.views.main import ChangeList
else:
    # Untyped; their classes extend Django's.
    from unfold.admin import ModelAdmin
    from unfold.views import ChangeList

MAY_CANCEL = "ota.upgrade_devices"  # cancel, pause, resume


class CountedChangeList(ChangeList):
    """A list whose rollouts know the counts of their tasks; one query a page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        found = rows.counts(rollout.pk for rollout in self.result_list)
        for rollout in self.result_list:
            rollout.counts = found[rollout.pk]


def bar(counts: Counts) -> SafeString:
    """The shares of a rollout's tasks as one bar; their numbers stand in its title."""
    parts = [(colour, name, rows.total(counts, statuses)) for colour, name, statuses in PARTS]
    found = [(colour, name, number) for colour, name, number in parts if number]
    title = ", ".join(f"{number} {name}" for _, name, number in found)
    inside = format_html_join(
        "",
        '<span data-colour="{}" style="flex-grow: {}"></span>',
        ((colour, number) for colour, _, number in found),
    )
    return format_html('<span class="ota-bar" title="{}">{}</span>', title, inside)


@admin.register(Rollout)
class RolloutAdmin(ModelAdmin[Rollout]):
    """Rollouts start with an action on devices; here they are watched, paused and canceled."""

    when_empty = "Choose devices in the list of devices, and take “Upgrade firmware…”."
    list_display = ["name", "state", "progress", "target", "author", "created"]
    list_filter = [("status", ChoicesDropdownFilter)]
    list_filter_submit = True
    list_select_related = ["created_by"]
    list_per_page = 50
    search_fields = ["name", "created_by__username"]
    show_full_result_count = False
    fields = ["name"]  # the page shows the rest in its own way

    class Media:
        css = {"all": ["ota/rollout.css"]}
        js = [Script("ota/rollout.js", defer=True)]

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
        return rollout.target_version or "newest"

    @admin.display(description="Author", ordering="created_by__username")
    def author(self, rollout: Rollout) -> str | SafeString:
        return str(rollout.created_by) if rollout.created_by else NOTHING

    @admin.display(description="Created", ordering="created_at")
    def created(self, rollout: Rollout) -> SafeString:
        return ago(rollout.created_at)

    def get_urls(self) -> list[URLPattern]:
        deeds = {"cancel": self.cancel, "pause": self.pause, "resume": self.resume}
        own = [
            path(
                f"<int:pk>/{name}/",
                require_POST(self.admin_site.admin_view(deed)),
                name=f"ota_rollout_{name}",
            )
            for name, deed in deeds.items()
        ]
        return [*own, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        rollout: Rollout = context["original"]
        context |= _page(rollout, request) | {"may_steer": request.user.has_perm(MAY_CANCEL)}
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def cancel(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Cancels the tasks whose command was not sent yet."""
        rollout, user = self._steered(request, pk)
        canceled = rollouts.cancel(rollout, timezone.now(), user)
        self.log_change(request, rollout, f"Canceled {canceled} tasks that were not issued yet.")
        self.message_user(request, _told(canceled), messages.SUCCESS)
        return redirect("admin:ota_rollout_change", pk)

    def pause(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Issues nothing more until somebody resumes it."""
        rollout, user = self._steered(request, pk)
        if rollouts.pause(rollout, user=user):
            self.log_change(request, rollout, "Paused.")
            told = "Paused: nothing is issued any more. What is running already goes on."
            self.message_user(request, told, messages.SUCCESS)
        else:
            self.message_user(request, "It does not run, so it is not paused.", messages.WARNING)
        return redirect("admin:ota_rollout_change", pk)

    def resume(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Goes on with what waits."""
        rollout, _ = self._steered(request, pk)
        if rollouts.resume(rollout):
            self.log_change(request, rollout, f"Resumed. It was {rollout.pause_reason}"[:500])
            self.message_user(request, "Resumed: what waits is looked at anew.", messages.SUCCESS)
        else:
            self.message_user(request, "It is not paused.", messages.WARNING)
        return redirect("admin:ota_rollout_change", pk)

    def _steered(self, request: HttpRequest, pk: int) -> tuple[Rollout, User]:
        """The rollout, and who wants something of it.

        Raises:
            PermissionDenied: they may not.
        """
        user = request.user
        may_steer = self.has_view_permission(request) and user.has_perm(MAY_CANCEL)
        if not (may_steer and isinstance(user, User)):
            raise PermissionDenied
        return get_object_or_404(Rollout, pk=pk), user


def _told(canceled: int) -> str:
    tasks = "1 task" if canceled == 1 else f"{canceled} tasks"
    return f"Canceled {tasks} that had not been issued. What is running already goes on."


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
        "parts": [_part(*part, counts) for part in PARTS],
        "waiting": counts[TaskStatus.PENDING],
        "empty_row": {"targets": [{}]},
        "socket": f"/ws/rollouts/{rollout.pk}/",
        "urls": {
            deed: reverse(f"admin:ota_rollout_{deed}", args=[rollout.pk])
            for deed in ("cancel", "pause", "resume")
        },
    }


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
