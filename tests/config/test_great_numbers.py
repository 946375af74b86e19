"""Numbers that people are told have separators of thousands, wherever they stand."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any

import pytest
from django.conf import settings
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from fleet.models import Device
from ota import downloads, terms
from ota.admin.rollouts import bar
from ota.management import watching
from ota.management.launching import plan_shown
from ota.models import Download, FirmwarePackage, PackageEvent
from ota.notices.shared import ended
from ota.states import TaskStatus
from tests.make import make_package, make_rollout
from tests.people import log_in, text

TEMPLATES = sorted(
    path
    for room in ("config", "fleet", "ota")
    for path in (settings.BASE_DIR / room / "templates").rglob("*.html")
)


@pytest.mark.parametrize(
    "path", TEMPLATES, ids=lambda path: f"{path.relative_to(settings.BASE_DIR)}"
)
def test_what_a_template_says_in_one_or_many_it_tells_with_separators(path: Path) -> None:
    source = path.read_text()
    counted = set(re.findall(r"{{ ([\w.|]+?)\|pluralize", source))
    assert not [name for name in counted if f"{{{{ {name} }}}}" in source]


def test_the_tables_of_a_preview_have_separators() -> None:
    table = Some(docks=1300, rows=[], more=1100)
    group = Some(title="Up to date", rows=[], devices=1400, more=1200)
    preview = Some(waits_for=[("Low battery", 1250)], left_out=[group], left_out_count=1500)
    about: dict[str, Any] = {"table": table, "preview": preview, "waits": True}
    planned = render_to_string("admin/fleet/device/planned.html", about)
    left_out = render_to_string("admin/fleet/device/left_out.html", about)
    found = re.findall(r"\d[\d,]{3,}", planned), re.findall(r"\d[\d,]{3,}", left_out)
    assert found == (["1,300", "1,250", "1,100"], ["1,500", "1,400", "1,200"])


@pytest.mark.django_db
def test_how_many_devices_are_adopted_has_separators(client: Client) -> None:
    log_in(client, "Administrators")
    Device.objects.bulk_create(Device(sn=f"D{one}") for one in range(1234))
    form = {"action": "adopt", "select_across": "1", "_selected_action": "1"}
    shown = text(client.post(reverse("admin:fleet_device_changelist"), form, follow=True))
    assert "1,234 unclaimed devices" in " ".join(shown.split())
    assert "and 1,184 more" in shown


@pytest.mark.django_db
def test_how_long_a_packages_history_is_has_separators(client: Client) -> None:
    log_in(client, "Viewers")
    package = make_package()
    line = {"package": package, "at": timezone.now(), "text": "checked"}
    PackageEvent.objects.bulk_create(PackageEvent(**line) for _ in range(1001))
    page = reverse("admin:ota_firmwarepackage_history", args=[package.pk])
    assert "1,001 lines, newest first" in text(client.get(page))


@pytest.mark.django_db
def test_how_long_release_notes_may_be_has_separators(client: Client) -> None:
    log_in(client, "Administrators")
    page = reverse("admin:ota_firmwarepackage_change", args=[make_package().pk])
    assert "at most 50,000 characters" in text(client.get(page))


def test_how_often_a_dock_asked_for_a_package_has_separators() -> None:
    now, package = timezone.now(), FirmwarePackage(size=10)
    asked = Download(package=package, last_offset=5, requests=1234, bytes_served=5, last_at=now)
    assert "1,234 requests" in downloads.in_words(package, asked, now)


def test_how_tasks_ended_has_separators() -> None:
    assert ended(Counter({TaskStatus.OK: 1200, TaskStatus.FAILED: 1})) == "1,200 proven, 1 failed"


def test_the_numbers_of_upgrade_status_have_separators() -> None:
    told = str(watching.summary(Counter(ok=1200, failed=34)))
    assert told == "1,234 tasks: 1,200 ok, 34 failed"


def test_the_waves_of_a_rollout_have_separators_in_a_terminal() -> None:
    wave = {"number": 1, "title": "", "opened_at": None, "gate": 95}
    wave |= {"tasks": 1400, "finished": 1300, "proven": 1200, "failed": 1100}
    assert cells(watching.waves_table([wave]))[3:7] == ["1,400", "1,300", "1,200", "1,100"]
    waves = [{"number": number, "title": "", "docks": 1500} for number in (1, 2)]
    (planned,) = plan_shown({"waves": waves, "tasks": [], "excluded": [], "too_late": 0})
    assert cells(planned) == ["1", "2", "", "", "1,500", "1,500"]


def cells(table: Any) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]


def test_the_bar_of_a_rollout_tells_its_numbers_with_separators() -> None:
    assert 'title="1,200 proven"' in bar(Counter({TaskStatus.OK: 1200}))


@pytest.mark.django_db
def test_a_policy_in_words_has_separators() -> None:
    rollout = make_rollout(limit_in_flight=2000, limit_per_site=1500, max_failed=1000)
    told = {term.name: term.text for term in terms.of(rollout)}
    assert told["At once"] == "2,000 docks at most, 1,500 of a site"
    assert told["Pauses itself"].startswith("above 1,000 failures")
