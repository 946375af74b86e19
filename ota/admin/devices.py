"""Devices in the console, with what they need: the list, a device's upgrades, the action to upgrade."""

import datetime as dt
import logging
import threading
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from kombu.exceptions import OperationalError
from unfold.decorators import action

from console.counts import count
from console.keys import is_key
from console.labels import NOTHING, label, two_lines
from fleet.admin import DeviceAdmin
from fleet.models import Device, DeviceModel
from fleet.selection import Selection
from ota import needs, rollouts, states, tasks
from ota.admin import clones, criteria, plan_table, preview, report
from ota.admin.device_filters import NEEDS, WANTING, NeedFilter, VersionFilter
from ota.forms import RolloutForm
from ota.models import Rollout, UpgradeTarget, UpgradeTask
from ota.needs import Answer
from ota.rollouts import InvalidPolicy, NothingToUpgrade, Plan, PlanChanged

logger = logging.getLogger(__name__)

LATEST = 20  # upgrades on a device's page

admin.site.unregister(Device)


@admin.register(Device)
class UpgradableDeviceAdmin(DeviceAdmin):
    """The fleet's page of devices, and above it what the library means for them."""

    list_display = [
        *("name", "product", "heard", "firmware", "need", "blocked_by"),
        *("dock", "owner"),
    ]
    list_filter = [NeedFilter, *DeviceAdmin.list_filter, VersionFilter, clones.RestFilter]
    actions = ["upgrade", *DeviceAdmin.actions]
    actions_detail = ["upgrade_one"]
    change_form_after_template = "admin/fleet/device/upgrades.html"
    fieldsets = [
        *DeviceAdmin.fieldsets[:1],
        ("Compared with the library", {"fields": ["need", "blockers"]}),
        *DeviceAdmin.fieldsets[1:],
    ]
    readonly_fields = [*DeviceAdmin.readonly_fields, "need", "blockers"]

    def has_upgrade_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("ota.upgrade_devices")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.upgrade_view)
        return [path("upgrade/", view, name="fleet_device_upgrade"), *super().get_urls()]

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[Any, Any], set[Any], list[Any]]:
        """In plain words why a device that was upgraded stays."""
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        was_upgraded = Q(tasks__isnull=False) | Q(upgrades__isnull=False)
        kept = Device.objects.filter(was_upgraded, pk__in=[device.pk for device in objs])
        reasons: list[Any] = [
            f"{device}: it was upgraded from here, and that history needs it. Leave it in the list."
            for device in kept.distinct()
        ]
        if reasons:  # with them it is no question of permissions
            return to_delete, counts, set(), reasons
        return to_delete, counts, perms_needed, protected

    # The list and the page

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The rows of the page are assessed together, just before it is rendered."""
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and "cl" in (response.context_data or {}):
            changelist = response.context_data["cl"]  # type: ignore[index]  # seen above
            changelist.result_list = _assessed(list(changelist.result_list))
        return response

    def get_object(self, *args: Any, **kwargs: Any) -> Device | None:
        device = super().get_object(*args, **kwargs)
        return _assessed([device])[0] if device else None

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = dict(extra_context or {})
        if request.user.has_perm("ota.view_upgradetask"):
            context["upgrades"] = _latest_upgrades(object_id)
        return super().change_view(request, object_id, form_url, context)

    @admin.display(description="need")
    def need(self, device: Device) -> SafeString:
        answer = _answer(device)
        text, colour = NEEDS[answer.need]
        target = answer.package.version if answer.package and answer.need in WANTING else ""
        return two_lines(label(text, colour), target and f"to {target}")

    @admin.display(description="what blocks it")
    def blocked_by(self, device: Device) -> SafeString:
        answer = _answer(device)
        if answer.need not in WANTING:
            return NOTHING
        reasons = _reasons(answer)
        if not reasons:
            return label("Ready", "success")
        more = f"and {len(reasons) - 1} more: {'; '.join(reasons[1:])}" if reasons[1:] else ""
        return two_lines(reasons[0], more)

    @admin.display(description="what keeps it from an upgrade now")
    def blockers(self, device: Device) -> str:
        reasons = _reasons(_answer(device))
        return "\n".join(reasons) if reasons else "nothing"

    # The action

    @admin.action(description="Upgrade firmware…", permissions=["upgrade"])
    def upgrade(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse:
        chosen = Selection.of_action(request, queryset)
        return HttpResponseRedirect(chosen.url(reverse("admin:fleet_device_upgrade")))

    @action(
        description="Upgrade firmware…",
        url_path="upgrade",
        icon="system_update_alt",
        permissions=["upgrade"],
    )  # type: ignore[untyped-decorator]  # unfold's
    def upgrade_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        chosen = Selection(pks=(int(object_id),) if is_key(object_id) else ())
        return HttpResponseRedirect(chosen.url(reverse("admin:fleet_device_upgrade")))

    def upgrade_view(self, request: HttpRequest) -> HttpResponseBase:
        """The preview; a POST goes on to the next preview, asks for its table, or starts the rollout."""
        if not self.has_upgrade_permission(request) or not self.has_view_permission(request):
            raise PermissionDenied
        choices = request.POST if request.method == "POST" else request.GET
        chosen = Selection.read(choices)
        try:
            devices = chosen.devices(request, self)
        except IncorrectLookupParameters:
            messages.error(request, "The list that the devices were chosen from does not exist.")
            return redirect("admin:fleet_device_changelist")
        original, by = clones.original(request, chosen), criteria.of(chosen)
        pairs = devices.order_by().values_list("model", "organization").distinct()
        models, owners = ({pair[of] for pair in pairs} for of in (0, 1))
        usual = rollouts.usual_policy(owners, is_list=bool(by or original))
        form = RolloutForm(choices, models | _aircraft(choices), usual, by, original)
        if request.method != "POST":
            return self._preview(request, chosen, form, devices)
        if choices.get("do") == "csv" and form.is_valid():
            return self._table(request, chosen, form, devices)
        if choices.get("do") == "confirm" and form.is_valid() and _is_seen(request, form):
            return self._launch(request, chosen, form, devices)
        return _show_again(chosen, form)

    def _preview(
        self,
        request: HttpRequest,
        chosen: Selection,
        form: RolloutForm,
        devices: QuerySet[Device],
    ) -> HttpResponse:
        now = timezone.now()
        plan = _planned(form, devices, now)
        forgets = form.is_valid() and not form.cleaned_data["with_aircraft"]
        context = {
            **self.admin_site.each_context(request),
            "title": "Upgrade firmware",
            "model_admin": self,  # for the way back in the header
            "chosen": chosen,
            "form": form,
            "preview": preview.of(plan, form.options(), now) if plan else None,
            "digest": plan.digest if plan else "",
            "forgotten": preview.forgotten_aircraft(devices) if forgets else 0,
        }
        return TemplateResponse(request, "admin/fleet/device/upgrade.html", context)

    def _table(
        self,
        request: HttpRequest,
        chosen: Selection,
        form: RolloutForm,
        devices: QuerySet[Device],
    ) -> HttpResponseBase:
        """The whole plan that the page shows the first rows of."""
        plan = _planned(form, devices, timezone.now())
        if plan and plan.digest == request.POST.get("plan"):
            return report.download(request, plan_table.as_csv(plan), "upgrade-plan.csv")
        messages.warning(request, _OTHER_TABLE)
        return _show_again(chosen, form)

    def _launch(
        self,
        request: HttpRequest,
        chosen: Selection,
        form: RolloutForm,
        devices: QuerySet[Device],
    ) -> HttpResponse:
        user = request.user if isinstance(request.user, User) else None
        try:
            rollout, started = rollouts.launch(
                devices, form.options(), timezone.now(), user, request.POST.get("plan", "")
            )
        except PlanChanged:
            messages.warning(request, _PLAN_CHANGED)
            return _show_again(chosen, form)
        except NothingToUpgrade:
            messages.warning(request, _NOTHING_STARTED)
            return _show_again(chosen, form)
        except InvalidPolicy:  # the page that follows says it beside the choice
            return _show_again(chosen, form)
        transaction.on_commit(_start_tick)
        LogEntry.objects.log_actions(
            request.user.pk or 0, [rollout], ADDITION, "Started from the list of devices."
        )
        messages.success(request, _told(rollout, started))
        return redirect("admin:ota_rollout_change", rollout.pk)


_PLAN_CHANGED = (
    "Nothing was started: something else would happen now than the preview showed. That can be other devices, "
    "versions, older ones too, or waves, when it may begin, who joins later and with what, or the approval. "
    "Please look at it once more."
)
_OTHER_TABLE = (
    "There is no table of what the preview showed: something else would happen by now, or the choices changed. "
    "This is the preview as it is now."
)
_NOTHING_STARTED = (
    "No rollout was started: none of the devices can be upgraded any more. "
    "Another rollout may have them already, as when a button is pressed twice."
)


def _latest_upgrades(device_id: str) -> list[tuple[UpgradeTarget, str]]:
    """Of the device, and of its aircraft if it is a dock; each with its label's colour."""
    if not is_key(device_id):
        return []
    # One query for both would walk through the upgrades of all devices.
    pk = int(device_id)
    tasks = UpgradeTask.objects.filter(gateway=pk).order_by("-pk")
    newest = list(tasks.values_list("pk", flat=True)[:LATEST])
    own = UpgradeTarget.objects.filter(device=pk).order_by("-pk")
    either = Q(task__in=newest) | Q(pk__in=list(own.values_list("pk", flat=True)[:LATEST]))
    found = UpgradeTarget.objects.filter(either).select_related("task__rollout", "device")
    latest = found.order_by("-pk")[:LATEST]
    return [(target, states.COLOURS.get(target.task.status, "")) for target in latest]


def _assessed(devices: list[Device]) -> list[Device]:
    """The devices, each with its answer; a fixed number of queries."""
    for answer in needs.assess(devices, timezone.now()):
        answer.device.answer = answer  # type: ignore[attr-defined]  # for the columns
    return devices


def _answer(device: Device) -> Answer:
    answer: Answer = device.answer  # type: ignore[attr-defined]  # put there by _assessed
    return answer


def _reasons(answer: Answer) -> list[str]:
    if answer.exclusion:
        return [answer.exclusion.text]
    return [reason.text for reason in answer.blockers]


def _aircraft(choices: QueryDict) -> set[int]:
    """The models of all aircraft, where those behind the chosen devices are chosen too.

    Which ones these are would be asked of each of a hundred thousand docks.
    """
    if not choices.get("with_aircraft"):
        return set()
    aircraft = DeviceModel.objects.filter(kind=DeviceModel.Kind.AIRCRAFT)
    return set(aircraft.values_list("pk", flat=True))


def _planned(form: RolloutForm, devices: QuerySet[Device], now: dt.datetime) -> Plan | None:
    """The plan of these choices; None where one of them is refused, which the form then says."""
    if not form.is_valid():
        return None
    try:
        return rollouts.plan(devices, form.options(), now)
    except InvalidPolicy as error:
        form.refuse(error)
        return None


def _is_seen(request: HttpRequest, form: RolloutForm) -> bool:
    """Whether the operator saw what these choices mean; says so if not."""
    if request.POST.get("seen") != form.decision():
        messages.warning(request, "The choices changed: please look at the preview once more.")
        return False
    if form.cleaned_data["allow_downgrade"] and "accept_downgrades" not in request.POST:
        messages.warning(request, "Nothing was started: the older versions were not accepted.")
        return False
    return True


def _show_again(chosen: Selection, form: RolloutForm) -> HttpResponse:
    page = Selection.url(chosen, reverse("admin:fleet_device_upgrade"))
    return HttpResponseRedirect(f"{page}&{form.urlencoded()}")


def _start_tick() -> None:
    """In a thread of its own: a Redis that is away keeps a caller for seconds, and a page must not wait."""
    threading.Thread(target=_tick, name="tick", daemon=True).start()


def _tick() -> None:
    """Starts at once what the clock would start within a second."""
    try:
        tasks.advance.apply_async(retry=False)
    except OperationalError as error:
        logger.warning("the rollout waits for the clock, Redis does not answer: %s", error)


def _told(rollout: Rollout, started: Plan) -> str:
    became = "waits for approval" if started.needs_approval else "was started"
    text = f"{rollout} {became} for {count(len(started.tasks), 'dock')}."
    return f"{text} Left out: {len(started.excluded):,}." if started.excluded else text
