"""Firmware packages in the console: what they are, what people say about them, and their states."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.forms import ModelForm, Script
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action

from console.counts import count
from console.filters import ChoiceFilter, OneOfFilter, ValueFilter
from console.keys import key
from console.labels import NOTHING, ago, label, link, two_lines
from console.paging import DEPTH
from console.prefilled import PrefilledAdmin
from console.sizes import shown_size
from ota import notes, packages, states, storage
from ota.admin import adding, uploads, withdrawing
from ota.forms import PackageDetailsForm
from ota.models import FirmwarePackage, UpgradeTarget, UpgradeTask
from ota.packages import PackageRefused
from ota.states import PackageState

LINES = 50  # of the history, a page
NAMED = 5  # canceled upgrades in a message


class ProblemFilter(ChoiceFilter):
    """Packages that somebody has to see to."""

    title = "problem"
    parameter_name = "problem"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Something is wrong"), ("no", "Nothing is wrong")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]
    ) -> QuerySet[FirmwarePackage]:
        if not self.value():
            return queryset
        return queryset.filter(problem="") if self.value() == "no" else queryset.exclude(problem="")


@admin.register(FirmwarePackage)
class FirmwarePackageAdmin(PrefilledAdmin[FirmwarePackage]):
    """What a package's bytes say is not changed here, only what people say about it."""

    form = PackageDetailsForm
    list_display = ["name", "version", "fits", "status", "released_on", "length", "short_md5"]
    list_display_links = ["name"]
    list_filter = [
        *(("state", ValueFilter), ProblemFilter, ("models", OneOfFilter)),
    ]
    list_filter_submit = True
    search_fields = ["file_name", "version", "md5", "sha256", "product_code"]
    search_help_text = "File name, version, MD5, SHA-256 or product code"
    actions = ["make_available", "withdraw"]
    actions_detail = ["make_this_available", "withdraw_this", "purge_this"]
    autocomplete_fields = ["models"]
    when_empty = (
        "Download the vendor's zips, one for each model, and add them here as they are; or use "
        "manage.py import_firmware on the server."
    )
    change_form_outer_before_template = "admin/ota/firmwarepackage/state.html"
    fieldsets = [
        (
            None,
            {
                "fields": [
                    *("file_name", "version", "status", "checked"),
                    *("models", "released_on", "minimum_version"),
                ]
            },
        ),
        ("Release notes", {"fields": ["shown_notes", "notes"]}),
        ("File", {"fields": ["length_in_full", "md5", "digest", "product_code", "purged"]}),
        ("Library", {"fields": ["used", "added", "created_by"]}),
    ]
    readonly_fields = [
        *("file_name", "version", "status", "checked", "shown_notes", "length_in_full", "md5"),
        *("digest", "product_code", "purged", "used", "added", "created_by"),
    ]

    class Media:
        js = [Script("ota/package.js", defer=True)]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FirmwarePackage]:
        return super().get_queryset(request).prefetch_related("models")

    def get_urls(self) -> list[Any]:
        state = self.admin_site.admin_view(self.state_view)
        own = path("<int:pk>/state/", state, name="ota_firmwarepackage_state")
        return [*uploads.urls(self), own, *super().get_urls()]

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return adding.add_page(self, request)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        package: FirmwarePackage = context["original"]
        context["show_save_and_add_another"] = False
        if package.state == PackageState.CHECKING:
            context["latest"] = package.events.last()
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def state_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What the page asks for while the package's bytes are read: ``{"state"}``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        package = get_object_or_404(FirmwarePackage, pk=pk)
        return JsonResponse({"state": package.state})

    def save_model(
        self,
        request: HttpRequest,
        obj: FirmwarePackage,
        form: ModelForm[FirmwarePackage],
        change: bool,
    ) -> None:
        """Only what the form changed: the package may have been withdrawn meanwhile."""
        said = {name: form.cleaned_data[name] for name in form.changed_data}
        packages.change(obj, said, timezone.now(), _person(request))

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """All that happened to the package, whoever did it and however, newest first."""
        package = self.get_object(request, object_id)
        if package is None:
            raise Http404("There is no such package.")
        if not self.has_view_or_change_permission(request, package):
            raise PermissionDenied
        events = package.events.select_related("actor").order_by("-pk")
        context = {
            **self.admin_site.each_context(request),
            "title": f"History of {package}",
            "model_admin": self,  # for the way back in the header
            "opts": self.opts,
            "object": package,
            "page": Paginator(events, LINES).get_page(request.GET.get("page")),
        }
        return TemplateResponse(request, "admin/ota/firmwarepackage/history.html", context)

    # Actions

    @admin.action(description="Make available", permissions=["change"])
    def make_available(self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]) -> None:
        done = 0
        for package in queryset:
            try:
                packages.make_available(package, timezone.now(), _person(request))
            except PackageRefused as refusal:
                messages.error(request, str(refusal))
            else:
                done += 1
        if done:
            messages.success(request, f"Made available: {count(done, 'package')}.")

    @admin.action(description="Withdraw…", permissions=["change"])
    def withdraw(
        self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]
    ) -> HttpResponse | None:
        if not withdrawing.is_confirmed(request):
            return withdrawing.ask(self, request, queryset, request.get_full_path())
        self._withdraw(request, queryset)
        return None

    def _withdraw(self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]) -> None:
        for package in queryset.exclude(state=PackageState.WITHDRAWN):
            canceled = packages.withdraw(package, timezone.now(), _person(request))
            messages.success(request, f"{package} was withdrawn. {_canceled(canceled)}")

    @action(
        description="Make available",
        url_path="make-available",
        icon="check_circle",
        permissions=["change"],
        dialog={
            "title": "Make this package available?",
            "description": "From then on it is offered for upgrades of its models.",
            "form_class": None,
            "form_submit_text": "Make available",
        },
    )  # type: ignore[untyped-decorator]  # unfold's
    def make_this_available(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self.make_available(request, _one(object_id))
        return _back_to(object_id)

    @action(
        description="Withdraw…",
        url_path="withdraw",
        icon="block",
        permissions=["change"],
    )  # type: ignore[untyped-decorator]  # unfold's
    def withdraw_this(self, request: HttpRequest, object_id: str) -> HttpResponse:
        chosen = _one(object_id)
        back = reverse("admin:ota_firmwarepackage_change", args=[object_id])
        if not withdrawing.is_confirmed(request):
            return withdrawing.ask(self, request, chosen, back)
        self._withdraw(request, chosen)
        return redirect(back)

    @action(
        description="Delete the file",
        url_path="purge",
        icon="delete_sweep",
        permissions=["change"],
        dialog={
            "title": "Delete the file of this package?",
            "description": "Its bytes are removed from the storage for good. The package stays in "
            "the list, because upgrades and their history name it.",
            "form_class": None,
            "form_submit_text": "Delete the file",
        },
    )  # type: ignore[untyped-decorator]  # unfold's
    def purge_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        package = _one(object_id).get()
        try:
            is_gone = packages.purge(package, timezone.now(), _person(request))
        except PackageRefused as refusal:
            messages.error(request, str(refusal))
        else:
            _tell_of_file(request, package, is_gone=is_gone)
        return _back_to(object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[Any]:
        """Only what the package's state allows."""
        package = FirmwarePackage.objects.filter(pk=key(str(object_id))).first()
        allowed = _allowed(package) if package else set()
        found = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # unfold's
        return [one for one in found if one.method.original_function_name in allowed]

    # Deleting

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[Any, Any], set[Any], list[Any]]:
        """In plain words why a package that was used, or is being read, stays."""
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        pks = [package.pk for package in objs]
        chosen = FirmwarePackage.objects.filter(pk__in=pks)
        used = chosen.filter(targets__isnull=False).distinct()
        reasons = [
            f"{package}: upgrades used it, and their history needs it. Withdraw it instead."
            for package in used
        ]
        reasons += [
            f"{package}: a worker is reading its bytes. Delete it once that has ended."
            for package in chosen.filter(checked_until__gt=timezone.now())
        ]
        return to_delete, counts, perms_needed, reasons or protected

    def delete_model(self, request: HttpRequest, obj: FirmwarePackage) -> None:
        super().delete_model(request, obj)
        transaction.on_commit(lambda: _discard_file(request, obj))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]) -> None:
        for package in queryset:
            self.delete_model(request, package)

    # Columns

    @admin.display(description="package", ordering="file_name")
    def name(self, package: FirmwarePackage) -> SafeString:
        return two_lines(package.file_name, "")

    @admin.display(description="models")
    def fits(self, package: FirmwarePackage) -> str:
        return ", ".join(model.name for model in package.models.all())

    @admin.display(description="state", ordering="state")
    def status(self, package: FirmwarePackage) -> SafeString:
        state = label(package.get_state_display(), states.COLOURS.get(package.state, ""))
        if not package.problem:
            return state
        return format_html("{} {}", state, label("Problem", "danger", package.problem))

    @admin.display(description="size", ordering="size")
    def length(self, package: FirmwarePackage) -> str:
        return shown_size(package.size)

    @admin.display(description="MD5")
    def short_md5(self, package: FirmwarePackage) -> str | SafeString:
        return f"{package.md5[:8]}…" if package.md5 else NOTHING

    # Facts

    @admin.display(description="all bytes checked")
    def checked(self, package: FirmwarePackage) -> SafeString:
        return ago(package.verified_at)

    @admin.display(description="as they are shown")
    def shown_notes(self, package: FirmwarePackage) -> SafeString:
        if not package.notes:
            return NOTHING
        return format_html('<div class="release-notes">{}</div>', notes.as_html(package.notes))

    @admin.display(description="size")
    def length_in_full(self, package: FirmwarePackage) -> str:
        return f"{shown_size(package.size)}, {package.size:,} bytes"

    @admin.display(description="SHA-256")
    def digest(self, package: FirmwarePackage) -> SafeString:
        if not package.sha256:
            return NOTHING
        return format_html('<span class="digest">{}</span>', package.sha256)

    @admin.display(description="file deleted")
    def purged(self, package: FirmwarePackage) -> SafeString:
        return ago(package.purged_at) if package.purged_at else NOTHING

    @admin.display(description="used by")
    def used(self, package: FirmwarePackage) -> SafeString:
        tasks = UpgradeTarget.objects.filter(package=package).order_by().values("task").distinct()
        number = tasks[: DEPTH + 1].count()
        if not number:
            return NOTHING
        url = f"{reverse('admin:ota_upgradetask_changelist')}?package={package.pk}"
        if number > DEPTH:
            return link(url, f"more than {DEPTH:,} upgrade tasks")
        return link(url, count(number, "upgrade task"))

    @admin.display(description="added")
    def added(self, package: FirmwarePackage) -> SafeString:
        return ago(package.created_at)


def _one(object_id: str) -> QuerySet[FirmwarePackage]:
    """The package that an address names, as actions take what was chosen."""
    package = get_object_or_404(FirmwarePackage, pk=key(object_id))
    return FirmwarePackage.objects.filter(pk=package.pk)


def _person(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _discard_file(request: HttpRequest, package: FirmwarePackage) -> None:
    """Of a package that was deleted; that it went is told by its row's going."""
    if not storage.discard(str(package.file.name)):
        _tell_of_file(request, package, is_gone=False)


def _tell_of_file(request: HttpRequest, package: FirmwarePackage, *, is_gone: bool) -> None:
    if is_gone:
        messages.success(request, f"The file of {package} was deleted.")
        return
    text = f"The file of {package} could not be removed now. manage.py clean_library removes it."
    messages.warning(request, text)


def _allowed(package: FirmwarePackage) -> set[str]:
    """The actions that a package's page offers."""
    if package.state == PackageState.WITHDRAWN:
        return set() if package.purged_at else {"purge_this"}
    may_open = package.state == PackageState.DRAFT and not package.problem
    return {"withdraw_this", "make_this_available"} if may_open else {"withdraw_this"}


def _canceled(tasks: Sequence[UpgradeTask]) -> str:
    """Which upgrades do not happen, and of which rollouts."""
    if not tasks:
        return "No upgrade was waiting for it."
    named = [f"{task.gateway} in {task.rollout}" for task in tasks[:NAMED]]
    more = f" and {len(tasks) - NAMED:,} more" if len(tasks) > NAMED else ""
    return f"Canceled {count(len(tasks), 'upgrade')}: {', '.join(named)}{more}."


def _back_to(object_id: str) -> HttpResponse:
    """Dialogs are sent by htmx, which wants to be told where to go."""
    url = reverse("admin:ota_firmwarepackage_change", args=[object_id])
    return HttpResponse(headers={"HX-Redirect": url})
