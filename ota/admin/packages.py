"""Firmware packages in the console: add, make available, withdraw; and product codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import transaction
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RelatedDropdownFilter
from unfold.decorators import action

from fleet.labels import label, two_lines
from ota import packages, states
from ota.forms import PackageForm
from ota.models import FirmwarePackage, ProductCode
from ota.packages import PackageRefused
from ota.states import PackageState

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
else:
    from unfold.admin import ModelAdmin  # untyped; its class extends Django's


@admin.register(ProductCode)
class ProductCodeAdmin(ModelAdmin[ProductCode]):
    list_display = ["code", "stands_for"]
    search_fields = ["code"]
    autocomplete_fields = ["models"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProductCode]:
        return super().get_queryset(request).prefetch_related("models")

    @admin.display(description="stands for")
    def stands_for(self, code: ProductCode) -> str:
        return ", ".join(model.name for model in code.models.all())


@admin.register(FirmwarePackage)
class FirmwarePackageAdmin(ModelAdmin[FirmwarePackage]):
    """What a package's bytes say is not changed here, only what people say about it."""

    list_display = ["name", "version", "fits", "status", "released_on", "length", "short_md5"]
    list_display_links = ["name"]
    list_filter = [("state", ChoicesDropdownFilter), ("models", RelatedDropdownFilter)]
    list_filter_submit = True
    search_fields = ["file_name", "version", "md5", "product_code"]
    actions = ["make_available", "withdraw"]
    actions_detail = ["make_this_available", "withdraw_this"]
    autocomplete_fields = ["models"]
    fields = [
        *("file_name", "version", "status", "models", "released_on", "notes"),
        *("length", "md5", "sha256", "product_code", "used", "created_at", "created_by"),
    ]
    readonly_fields = [
        *("file_name", "version", "status", "length", "md5", "sha256", "product_code"),
        *("used", "created_at", "created_by"),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FirmwarePackage]:
        return super().get_queryset(request).prefetch_related("models")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = PackageForm(request.POST or None, request.FILES or None)
        if form.is_valid():
            package = self._add(request, form)
            if package:
                return redirect("admin:ota_firmwarepackage_change", package.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": "Add firmware package",
            "model_admin": self,  # for the way back in the header
            "form": form,
            "media": self.media + form.media,
        }
        return TemplateResponse(request, "admin/ota/firmwarepackage/add.html", context)

    def _add(self, request: HttpRequest, form: PackageForm) -> FirmwarePackage | None:
        """The package that was added, or that is there already; None with the refusal at the form."""
        upload: TemporaryUploadedFile = form.cleaned_data["file"]
        user = request.user if isinstance(request.user, User) else None
        path = Path(upload.temporary_file_path())
        try:
            package, is_new = packages.add(path, **form.given(), user=user, file_name=upload.name)
        except PackageRefused as refusal:
            form.add_error("file", str(refusal))
            return None
        if is_new:
            self.log_addition(request, package, "Added.")
            messages.success(request, f"{package} was added.")
        else:
            messages.info(request, f"{package} is in the library already, with the same bytes.")
        return package

    def save_model(
        self,
        request: HttpRequest,
        obj: FirmwarePackage,
        form: ModelForm[FirmwarePackage],
        change: bool,
    ) -> None:
        """Only what the form changed: the package may have been withdrawn meanwhile."""
        changed = set(form.changed_data) - {"models"}  # kept in a table of their own
        obj.save(update_fields=changed)

    # Actions

    @admin.action(description="Make available", permissions=["change"])
    def make_available(self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]) -> None:
        drafts = list(queryset.filter(state=PackageState.DRAFT))
        FirmwarePackage.objects.filter(
            pk__in=[package.pk for package in drafts], state=PackageState.DRAFT
        ).update(state=PackageState.AVAILABLE)
        for package in drafts:
            self.log_change(request, package, "Made available.")
        others = queryset.count() - len(drafts)
        messages.success(request, f"Made available: {len(drafts)}.")
        if others:
            messages.warning(request, f"Left as they are, because they are no drafts: {others}.")

    @admin.action(description="Withdraw", permissions=["change"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[FirmwarePackage]) -> None:
        user = request.user if isinstance(request.user, User) else None
        for package in queryset.exclude(state=PackageState.WITHDRAWN):
            canceled = packages.withdraw(package, timezone.now(), user)
            self.log_change(request, package, "Withdrawn.")
            messages.success(
                request, f"{package} was withdrawn; waiting upgrades canceled: {len(canceled)}."
            )

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
        self.make_available(request, FirmwarePackage.objects.filter(pk=object_id))
        return _back_to(object_id)

    @action(
        description="Withdraw",
        url_path="withdraw",
        icon="block",
        permissions=["change"],
        dialog={
            "title": "Withdraw this package?",
            "description": "Upgrades that wait for it are canceled. What runs already goes on, "
            "but no dock can fetch the package any more.",
            "form_class": None,
            "form_submit_text": "Withdraw",
        },
    )  # type: ignore[untyped-decorator]  # unfold's
    def withdraw_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self.withdraw(request, FirmwarePackage.objects.filter(pk=object_id))
        return _back_to(object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[Any]:
        """Only what the package's state allows."""
        state = FirmwarePackage.objects.values_list("state", flat=True).filter(pk=object_id).first()
        hidden = {"make_this_available"} if state != PackageState.DRAFT else set()
        hidden |= {"withdraw_this"} if state == PackageState.WITHDRAWN else set()
        found = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # unfold's
        return [one for one in found if one.method.original_function_name not in hidden]

    # Deleting

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[Any, Any], set[Any], list[Any]]:
        """In plain words why a package that was used stays."""
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        pks = [package.pk for package in objs]
        used = FirmwarePackage.objects.filter(pk__in=pks, targets__isnull=False).distinct()
        reasons = [
            f"{package}: upgrades used it, and their history needs it. Withdraw it instead."
            for package in used
        ]
        return to_delete, counts, perms_needed, reasons or protected

    def delete_model(self, request: HttpRequest, obj: FirmwarePackage) -> None:
        name = obj.file.name
        super().delete_model(request, obj)
        transaction.on_commit(lambda: default_storage.delete(name or ""))

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
        return label(package.get_state_display(), states.COLOURS.get(package.state, ""))

    @admin.display(description="size", ordering="size")
    def length(self, package: FirmwarePackage) -> str:
        return filesizeformat(package.size)

    @admin.display(description="MD5")
    def short_md5(self, package: FirmwarePackage) -> str:
        return f"{package.md5[:8]}…"

    @admin.display(description="used by")
    def used(self, package: FirmwarePackage) -> str:
        return f"{package.targets.count()} upgrades"


def _back_to(object_id: str) -> HttpResponse:
    """Dialogs are sent by htmx, which wants to be told where to go."""
    url = reverse("admin:ota_firmwarepackage_change", args=[object_id])
    return HttpResponse(headers={"HX-Redirect": url})
