"""A package's file is damaged while a rollout waits: from the disk to the operator's page and back."""

import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, expect

from fleet.models import Device
from ota import packages, storage
from ota.models import FirmwarePackage, Rollout
from ota.states import PackageState, TaskStatus
from simulator.packages import SERIES, build
from tests.browser import enter
from tests.make import make_dock, make_rollout, make_task
from tests.processes import Processes, eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


def damage(package: FirmwarePackage) -> None:
    path = storage.path(str(package.file.name))
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(b"damaged")
    os.utime(path)


def test_a_damaged_file_is_not_sent_and_pauses_its_rollout_until_it_is_mended(
    processes: Processes, page: Page, operator: User, tmp_path: Path
) -> None:
    newer = SERIES["DOCK2"].newer
    path = build(tmp_path, "DOCK2", newer.version, newer.released, 300_000)
    dock = make_dock(mode_code=4)
    package, _ = packages.add(path, models=["3-2-0"])
    rollout = make_rollout()
    task = make_task(dock, rollout=rollout, version=newer.version)
    processes.web()
    processes.bridge()
    for start in (processes.worker, processes.beat):
        start(OFFLINE_AFTER_SECONDS="600")
    enter(page, processes.web_url, operator)
    page.goto(f"{processes.web_url}/admin/ota/rollout/{rollout.pk}/change/")
    expect(page.locator("tr[data-task]")).to_contain_text("Waits: the dock")

    damage(package)
    Device.objects.filter(pk=dock.pk).update(mode_code=0, changed_at=timezone.now())
    expect(page.locator("[data-rollout=status_label]")).to_have_text("Paused")
    expect(page.get_by_text(f"Nothing is issued: package {package} is damaged")).to_be_visible()
    expect(page.locator("tr[data-task]")).to_contain_text("while the rollout is paused")
    package.refresh_from_db()
    assert package.state == PackageState.DRAFT
    page.goto(f"{processes.web_url}/admin/")
    expect(page.get_by_text(f"Package {package} is damaged.")).to_be_visible()

    packages.add(path, models=["3-2-0"])
    available = FirmwarePackage.objects.filter(state=PackageState.AVAILABLE)
    eventually(available.exists, "the mended package")
    task.refresh_from_db()
    assert task.status == TaskStatus.PENDING
    page.goto(f"{processes.web_url}/admin/ota/rollout/{rollout.pk}/change/")
    page.get_by_text("Resume", exact=True).click()
    page.get_by_role("button", name="Resume it").click()
    expect(page.get_by_text("Resumed: what waits is looked at anew.")).to_be_visible()
    expect(page.locator("[data-rollout=status_label]")).to_have_text("Running")
    expect(page.locator("tr[data-task] .tag")).to_have_text("Sent")


def test_an_operator_pauses_and_resumes(processes: Processes, page: Page, operator: User) -> None:
    task = make_task(status=TaskStatus.IN_PROGRESS)
    processes.web()
    enter(page, processes.web_url, operator)
    page.goto(f"{processes.web_url}/admin/ota/rollout/{task.rollout_id}/change/")
    page.get_by_text("Pause", exact=True).click()
    page.get_by_role("button", name="Pause it").click()
    expect(page.get_by_text(f"Nothing is issued: paused by {operator}")).to_be_visible()
    assert Rollout.objects.get().status == Rollout.Status.PAUSED
    expect(page.get_by_text("Pause", exact=True)).to_be_hidden()
    page.get_by_text("Resume", exact=True).click()
    page.get_by_role("button", name="Resume it").click()
    expect(page.locator("[data-rollout=status_label]")).to_have_text("Running")
    expect(page.get_by_text("Nothing is issued: paused by")).to_be_hidden()
