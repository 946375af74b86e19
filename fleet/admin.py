"""The console's pages of organizations, sites, device models and devices."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count, IntegerField, Max, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action

from console.counts import count
from console.filters import ChoiceFilter, OneOfFilter, OrNone, ValueFilter
from console.keys import key, read, written
from console.labels import NOTHING, ago, label, link, two_lines
from console.lists import ListAdmin
from console.paging import KeyPaginator, PagedChangeList
from console.prefilled import PrefilledAdmin
from fleet import binding, words
from fleet.forms import AdoptForm, DeviceForm, SiteForm, TypedFilterForm
from fleet.models import Device, DeviceModel, Organization, Site, new_binding_code
from fleet.selection import Selection

if TYPE_CHECKING:
    from django.contrib.admin import RelatedFieldListFilter as AutocompleteSelectFilter
else:
    from unfold.contrib.filters.admin import AutocompleteSelectFilter  # untyped; extends Django's

LISTED = 50  # of the devices that would be adopted

PRESENCE_COLOURS = {
    Device.Presence.ONLINE: "success",
    Device.Presence.OFFLINE: "warning",
    Device.Presence.OFF: "",
}


class TypedFilter(OrNone, AutocompleteSelectFilter):
    """One of many, found by typing; says "All" while none is chosen, as the other filters do."""

    form_class = TypedFilterForm


@admin.register(Organization)
class OrganizationAdmin(ListAdmin[Organization]):
    when_empty = "Docks bind to an organization with its identifier and its binding code."
    list_display = ["name", "identifier", "devices"]
    search_fields = ["name", "identifier"]
    actions_detail = ["regenerate_code"]
    warn_unsaved_form = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        counts = (
            Device.objects.filter(organization=OuterRef("pk")).order_by().values("organization")
        )
        number = Subquery(counts.values(number=Count("*")), output_field=IntegerField())
        return super().get_queryset(request).annotate(device_count=Coalesce(number, 0))

    @admin.display(description="devices", ordering="device_count")
    def devices(self, organization: Organization) -> SafeString:
        url = reverse("admin:fleet_device_changelist")
        number = organization.device_count  # type: ignore[attr-defined]  # annotated above
        return link(f"{url}?organization__id__exact={organization.pk}", f"{number:,}")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Nobody finds out binding codes by filtering for how they begin."""
        is_code = lookup.partition("__")[0] == "binding_code"
        return not is_code and super().lookup_allowed(lookup, value, request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """The binding code lets docks in, so only those see it who may change it."""
        may_see = obj is None or self.has_change_permission(request, obj)
        return ["name", "identifier", *(["binding_code"] if may_see else [])]

    @action(
        description="New binding code",
        url_path="regenerate-code",
        icon="key",
        permissions=["change"],
        dialog={
            "title": "Make a new binding code?",
            "description": "The code that is valid now stops working. Docks that are bound stay bound.",
            "form_class": None,
            "form_submit_text": "Make a new code",
        },
    )  # type: ignore[untyped-decorator]  # unfold's
    def regenerate_code(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        organization = get_object_or_404(Organization, pk=key(object_id))
        organization.binding_code = new_binding_code()
        organization.save(update_fields=["binding_code"])
        self.log_change(request, organization, "Made a new binding code.")
        messages.success(request, f"{organization} has a new binding code.")
        url = reverse("admin:fleet_organization_change", args=[object_id])
        return HttpResponse(headers={"HX-Redirect": url})


@admin.register(Site)
class SiteAdmin(PrefilledAdmin[Site]):
    when_empty = "A site is a place with a time zone. Devices are put into one on their own pages."
    form = SiteForm
    list_display = ["name", "organization", "time_zone"]
    list_per_page = 50
    list_select_related = ["organization"]
    list_filter = [("organization", TypedFilter)]
    list_filter_submit = True
    search_fields = ["name"]
    autocomplete_fields = ["organization"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PagedChangeList]:
        return PagedChangeList

    def save_model(
        self, request: HttpRequest, obj: Site, form: ModelForm[Site], change: bool
    ) -> None:
        """What waits for its hours there has others from now on."""
        super().save_model(request, obj, form, change)
        if change and "time_zone" in form.changed_data:
            Device.objects.filter(site=obj).wake(timezone.now())

    def delete_model(self, request: HttpRequest, obj: Site) -> None:
        self.delete_queryset(request, Site.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Site]) -> None:
        """Its docks follow the clock of the installation from now on."""
        Device.objects.filter(site__in=queryset).wake(timezone.now())
        super().delete_queryset(request, queryset)


@admin.register(DeviceModel)
class DeviceModelAdmin(PrefilledAdmin[DeviceModel]):
    list_display = ["name", "key", "kind"]
    list_filter = [("kind", ValueFilter)]
    list_filter_submit = True
    search_fields = ["name", "key"]
    autocomplete_fields = ["compatible_with"]


class ClaimedFilter(ChoiceFilter):
    """Devices that are bound to an organization, or that speak and never were."""

    title = "claimed"
    parameter_name = "claimed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Claimed"), ("no", "Unclaimed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        if not self.value():
            return queryset
        return queryset.filter(organization__isnull=self.value() == "no")


@admin.register(Device)
class DeviceAdmin(ListAdmin[Device]):
    """Devices come by message: nobody adds them here, and what they report is not changed here."""

    form = DeviceForm
    list_display = ["name", "product", "heard", "firmware", "dock", "owner"]
    list_display_links = ["name"]
    list_select_related = ["model", "organization", "site", "gateway__model"]
    list_filter = [
        ("model__kind", ValueFilter),
        ("model", OneOfFilter),
        ("organization", TypedFilter),
        ("site", TypedFilter),
        ("presence", ValueFilter),
        ClaimedFilter,
    ]
    list_filter_submit = True
    list_fullwidth = True
    list_per_page = 50
    change_list_template = "console/long_list.html"
    paginator = KeyPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    search_fields = ["sn", "callsign"]
    search_help_text = "Serial number or callsign"
    actions = ["adopt"]
    ordering = ["sn"]
    when_empty = (
        "Docks appear here by themselves once they speak. Make an organization, and type its "
        "identifier and its binding code into DJI Pilot 2."
    )
    fieldsets = [
        (None, {"fields": ["sn", "callsign", "product", "belongs_to", "site", "dock", "aircraft"]}),
        ("Presence", {"fields": ["status", "seen", "online_since", "bound_at", "thing_version"]}),
        ("Firmware", {"fields": ["firmware", "firmware_seen", *words.FIRMWARE]}),
        ("What it reports for the check before an upgrade", {"fields": words.PREFLIGHT}),
    ]
    readonly_fields = [
        *("sn", "product", "belongs_to", "dock", "aircraft", "status", "seen", "online_since"),
        *("bound_at", "thing_version", "firmware", "firmware_seen"),
        *(*words.FIRMWARE, *words.PREFLIGHT),
    ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PagedChangeList]:
        return PagedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Device], search_term: str
    ) -> tuple[QuerySet[Device], bool]:
        """Whoever pastes a whole serial number wants that device, which is found without reading all."""
        one = queryset.filter(sn=search_term.strip())
        if search_term and one.exists():
            return one, False
        return super().get_search_results(request, queryset, search_term)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting is the last of them, not the first."""
        found: dict[str, Any] = super().get_actions(request)
        deleting = {name: one for name, one in found.items() if name == "delete_selected"}
        return {name: one for name, one in found.items() if name not in deleting} | deleting

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Offers the history only where there is one: what devices report is not part of it."""
        entries = LogEntry.objects.filter(content_type__model=self.opts.model_name)
        written = entries.filter(object_id=context["object_id"]).exists()
        context["show_history"] = written
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def has_adopt_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("fleet.adopt_device")

    def save_model(
        self, request: HttpRequest, obj: Device, form: ModelForm[Device], change: bool
    ) -> None:
        """Only what the form changed: the device may have reported something meanwhile."""
        obj.save(update_fields=form.changed_data)
        if "site" in form.changed_data:
            Device.objects.filter(pk=obj.pk).wake(timezone.now())

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.adopt_view)
        return [path("adopt/", view, name="fleet_device_adopt"), *super().get_urls()]

    @admin.action(description="Adopt into organization…", permissions=["adopt"])
    def adopt(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse:
        chosen = Selection.of_action(request, queryset)
        return HttpResponseRedirect(chosen.url(reverse("admin:fleet_device_adopt")))

    def adopt_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_adopt_permission(request) or not self.has_view_permission(request):
            raise PermissionDenied
        chosen = Selection.read(request.POST or request.GET)
        try:
            devices = chosen.devices(request, self)
        except IncorrectLookupParameters:
            return redirect("admin:fleet_device_changelist")
        keys = list(_unclaimed(request, devices).values_list("pk", flat=True))
        form = AdoptForm(request.POST or None)
        if form.is_valid():
            return self._adopt(request, keys, form.cleaned_data["organization"])
        context = {
            **self.admin_site.each_context(request),
            "title": "Adopt into organization",
            "model_admin": self,  # for the way back in the header
            "form": form,
            "chosen": chosen,
            "runs": written(keys),
            "unclaimed": len(keys),
            "claimed": devices.exclude(organization=None).count(),
            "shown": Device.objects.filter(pk__in=keys[:LISTED]).select_related("model"),
            "more": max(0, len(keys) - LISTED),
        }
        return TemplateResponse(request, "admin/fleet/device/adopt.html", context)

    def _adopt(
        self, request: HttpRequest, keys: list[int], organization: Organization
    ) -> HttpResponse:
        chosen = Device.objects.filter(pk__among=keys)
        claimed = binding.adopt(chosen, organization, timezone.now())
        LogEntry.objects.log_actions(
            request.user.pk or 0, claimed, CHANGE, f"Adopted into {organization}."
        )
        level = messages.SUCCESS if claimed else messages.WARNING
        self.message_user(
            request, f"{count(len(claimed), 'device')} went into {organization}.", level
        )
        return redirect("admin:fleet_device_changelist")

    @cached_property
    def _checkbox(self) -> str:
        return super().action_checkbox(Device(pk="{}"))

    def action_checkbox(self, obj: Device) -> SafeString:
        """The usual one, rendered once instead of for each row."""
        return format_html(self._checkbox, obj.pk)

    @admin.display(description="device", ordering="sn")
    def name(self, device: Device) -> SafeString:
        return _two_names(device)

    @admin.display(description="model", ordering="model__name")
    def product(self, device: Device) -> SafeString:
        if device.model is None:
            return NOTHING
        return two_lines(device.model.name, device.model.get_kind_display())

    @admin.display(description="presence", ordering="presence")
    def status(self, device: Device) -> SafeString:
        presence = Device.Presence(device.presence)
        return label(presence.label, PRESENCE_COLOURS[presence])

    @admin.display(description="presence", ordering="last_seen_at")
    def heard(self, device: Device) -> SafeString:
        """In the list, with when it was."""
        return two_lines(self.status(device), self.seen(device))

    @admin.display(description="firmware", ordering="firmware_number")
    def firmware(self, device: Device) -> str | SafeString:
        return device.firmware_version or NOTHING

    @admin.display(description="last seen", ordering="last_seen_at")
    def seen(self, device: Device) -> SafeString:
        return ago(device.last_seen_at)

    @admin.display(description="version reported")
    def firmware_seen(self, device: Device) -> SafeString:
        return ago(device.firmware_seen_at)

    @admin.display(description="organization", ordering="organization__name")
    def owner(self, device: Device) -> SafeString:
        """In the list, with the site."""
        if device.organization is None:
            return label("Unclaimed", "warning")
        return two_lines(device.organization.name, device.site.name if device.site else "")

    @admin.display(description="organization")
    def belongs_to(self, device: Device) -> SafeString:
        """On the page; only adopting and binding change it."""
        if device.organization is None:
            return label("Unclaimed", "warning")
        url = reverse("admin:fleet_organization_change", args=[device.organization.pk])
        return link(url, device.organization)

    @admin.display(description="dock", ordering="gateway__sn")
    def dock(self, device: Device) -> SafeString:
        return _device_link(device.gateway) if device.gateway else NOTHING

    @admin.display(description="aircraft")
    def aircraft(self, device: Device) -> SafeString:
        found = [(_device_link(aircraft),) for aircraft in device.aircraft.all()]
        return format_html_join(", ", "{}", found) or NOTHING


def _unclaimed(request: HttpRequest, devices: QuerySet[Device]) -> QuerySet[Device]:
    """Those to adopt: what the page showed, whoever has come to match its list since or left it."""
    shown = request.POST.get("runs")
    if shown is None:
        return Device.objects.filter(pk__in=devices.values("pk"), organization=None)
    newest = Device.objects.aggregate(newest=Max("pk"))["newest"] or 0
    return Device.objects.filter(pk__among=read(shown, newest), organization=None)


def _device_link(device: Device) -> SafeString:
    return link(reverse("admin:fleet_device_change", args=[device.pk]), _two_names(device))


def _two_names(device: Device) -> SafeString:
    return two_lines(device.callsign, device.sn) if device.callsign else two_lines(device.sn, "")
