"""What people are told, in the console: the bell, the list of a person's notices, and their choices."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from console.buttons import pressed_on
from console.filters import ValueFilter
from console.keys import key
from console.labels import ago, label, link, two_lines
from console.lists import ListAdmin
from fleet.models import Organization
from ota import notices
from ota.admin.notice_forms import PreferenceForm
from ota.models import Notice, Preference
from ota.models.notices import Kind

LISTED = 6  # notices under the bell

COLOURS = {
    Kind.STARTED: "info",
    Kind.STOPPED: "danger",
    Kind.STANDSTILL: "warning",
    Kind.NEEDS_APPROVAL: "warning",
    Kind.WAVE_WAITING: "warning",
    Kind.FINISHED: "success",
    Kind.ON_SITE: "danger",
    Kind.DAMAGED: "danger",
}


@admin.register(Notice)
class NoticeAdmin(ListAdmin[Notice]):
    """Everybody sees their own notices and nobody else's; no permission is needed for that."""

    list_display = ["kind", "news_link", "when", "state"]
    list_display_links = None
    list_filter = [("news__kind", ValueFilter)]
    list_filter_submit = True
    list_select_related = ["news"]
    list_per_page = 50
    show_full_result_count = False
    list_before_template = "admin/ota/notice/above.html"
    actions = ["mark_read"]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False  # the bell leads here

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notice]:
        found: QuerySet[Notice] = super().get_queryset(request)
        return found.filter(user=request.user, is_shown=True)  # type: ignore[misc]

    @admin.display(description="About", ordering="news__kind")
    def kind(self, notice: Notice) -> SafeString:
        kind = Kind(notice.news.kind)
        return label(kind.label, COLOURS[kind])

    @admin.display(description="News")
    def news_link(self, notice: Notice) -> SafeString:
        url = reverse("admin:ota_notice_open", args=[notice.pk])
        return two_lines(link(url, notice.news.title), notice.news.text)

    @admin.display(description="When", ordering="at")
    def when(self, notice: Notice) -> SafeString:
        return ago(notice.at)

    @admin.display(description="State", ordering="read_at")
    def state(self, notice: Notice) -> SafeString:
        return label("Read") if notice.read_at else label("New", "info")

    @admin.action(description="Mark as read")
    def mark_read(self, request: HttpRequest, queryset: QuerySet[Notice]) -> None:
        queryset.filter(read_at=None).update(read_at=timezone.now())

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        read_all = pressed_on("admin:ota_notice_changelist", self.read_all)
        own = [
            path("bell/", view(require_safe(self.bell)), name="ota_notice_bell"),
            path("read/", view(read_all), name="ota_notice_read_all"),
            path("settings/", view(self.choose), name="ota_notice_settings"),
            path("<int:pk>/open/", view(require_safe(self.open)), name="ota_notice_open"),
        ]
        return [*own, *super().get_urls()]

    def bell(self, request: HttpRequest) -> HttpResponse:
        """What hangs under the bell, for the page that is open."""
        mine = self.get_queryset(request).select_related("news")
        lines = [(one, COLOURS[Kind(one.news.kind)]) for one in mine[:LISTED]]
        context = {"unread": notices.unread(request.user.pk or 0), "lines": lines}
        return never_cache(TemplateResponse)(request, "admin/ota/notice/bell.html", context)

    def read_all(self, request: HttpRequest) -> HttpResponse:
        count = self.get_queryset(request).filter(read_at=None).update(read_at=timezone.now())
        self.message_user(request, f"{count:,} marked as read.", messages.SUCCESS)
        return redirect("admin:ota_notice_changelist")

    def open(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Leads to what it is about; it is read then."""
        notice = get_object_or_404(self.get_queryset(request).select_related("news"), pk=pk)
        Notice.objects.filter(pk=pk, read_at=None).update(read_at=timezone.now())
        return redirect(notice.news.path)

    def choose(self, request: HttpRequest) -> HttpResponse:
        """What a person wants to hear, in general or for one organization."""
        user: Any = request.user
        organization = _organization(request)
        form = PreferenceForm(user, organization, request.POST or None)
        here = f"{request.path}?organization={organization.pk}" if organization else request.path
        if "forget" in request.POST:
            Preference.objects.filter(user=user, organization=organization).delete()
            self.message_user(request, "The general choices hold again.", messages.SUCCESS)
            return redirect(here)
        if request.method == "POST" and form.is_valid():
            form.save()
            self.message_user(request, "Saved.", messages.SUCCESS)
            return redirect(here)
        context = self.admin_site.each_context(request) | {
            "title": "What I am told",
            "form": form,
            "organization": organization,
            "organizations": _organizations(request),
            "sends_email": settings.SENDS_EMAIL,
            "opts": self.model._meta,
        }
        return TemplateResponse(request, "admin/ota/notice/settings.html", context)


def _organizations(request: HttpRequest) -> QuerySet[Organization]:
    may_see = request.user.has_perm("fleet.view_organization")
    return Organization.objects.all() if may_see else Organization.objects.none()


def _organization(request: HttpRequest) -> Organization | None:
    wanted = request.GET.get("organization", "")
    if not wanted:
        return None
    return get_object_or_404(_organizations(request), pk=key(wanted))
