"""Upgrades that somebody else started, in the console: to be read."""

from django.contrib import admin
from django.utils.safestring import SafeString

from console.labels import ago, label
from console.lists import ReadOnlyAdmin
from console.paging import BoundedPaginator
from ota import errors
from ota.models import ForeignUpgrade


@admin.register(ForeignUpgrade)
class ForeignUpgradeAdmin(ReadOnlyAdmin[ForeignUpgrade]):
    when_empty = (
        "Nobody else upgrades these docks, as far as they report it. Nothing has to be done."
    )
    list_display = ["gateway", "state", "progress", "first_seen_at", "last_seen"]
    list_select_related = ["gateway"]
    list_per_page = 50
    paginator = BoundedPaginator
    show_full_result_count = False
    search_fields = ["gateway__sn", "gateway__callsign", "bid"]
    fields = [
        *("gateway", "state", "progress", "advice", "bid"),
        *("first_seen_at", "last_seen_at", "finished_at"),
    ]
    readonly_fields = ["state", "progress", "advice"]

    @admin.display(description="state", ordering="finished_at")
    def state(self, upgrade: ForeignUpgrade) -> SafeString:
        if upgrade.finished_at:
            return label(upgrade.device_status or "over", "", "no longer blocks this dock")
        return label(upgrade.device_status or "running", "warning", "blocks upgrades of this dock")

    @admin.display(description="progress")
    def progress(self, upgrade: ForeignUpgrade) -> str:
        parts = [upgrade.step, "" if upgrade.percent is None else f"{upgrade.percent} %"]
        return ", ".join(part for part in parts if part) or "-"

    @admin.display(description="last seen", ordering="last_seen_at")
    def last_seen(self, upgrade: ForeignUpgrade) -> SafeString:
        return ago(upgrade.last_seen_at)

    @admin.display(description="result")
    def advice(self, upgrade: ForeignUpgrade) -> str:
        return errors.advice(upgrade.result) or "-"
