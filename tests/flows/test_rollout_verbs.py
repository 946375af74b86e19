"""What operators do to a rollout, each verb in a real browser."""

import csv
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.utils import timezone
from playwright.sync_api import Page, expect

from ota import live, rollouts
from ota.models import Rollout, UpgradeTask
from ota.states import TaskStatus
from tests.make import (
    NEW,
    make_dock,
    make_failed,
    make_listening,
    make_package,
    make_rollout,
    make_task,
    make_wave,
)

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

S, R = TaskStatus, Rollout.Status


def look_at(page: Page, rollout: Rollout) -> None:
    page.goto(f"{page.url.split('/admin/')[0]}/admin/ota/rollout/{rollout.pk}/change/")


def press(page: Page, verb: str, button: str) -> None:
    """Opens a verb and confirms it."""
    page.locator("summary", has_text=verb).click()
    page.get_by_role("button", name=button, exact=True).click()


def now(row: Rollout | UpgradeTask) -> str:
    row.refresh_from_db()
    return row.status


def test_a_rollout_is_paused_resumed_and_canceled(console: Page) -> None:
    task = make_task(rollout=make_rollout(name="Spring"))
    look_at(console, task.rollout)
    press(console, "Pause", "Pause it")
    expect(console.get_by_text("Nothing is issued: paused by operators")).to_be_visible()
    assert now(task.rollout) == R.PAUSED
    press(console, "Resume", "Resume it")
    expect(console.get_by_text("Resumed: what waits is looked at anew.")).to_be_visible()
    press(console, "Cancel what was not issued", "Cancel them")
    expect(console.get_by_text("Called off 1 upgrade that waited.")).to_be_visible()
    assert (now(task.rollout), now(task)) == (R.CANCELED, S.CANCELED)


def test_the_next_wave_opens_once_from_two_pages(console: Page) -> None:
    rollout = make_rollout(waves="1, 1, rest", asks_between_waves=True)
    make_task(rollout=rollout, status=S.IN_PROGRESS)
    for number in (2, 3):
        make_task(rollout=rollout, wave=make_wave(rollout, number, opened_at=None))
    look_at(console, rollout)
    other = console.context.new_page()
    other.goto(console.url)
    press(console, "Open next wave", "Open wave 2")
    expect(console.locator("tr[data-wave='2']")).to_contain_text("open since")
    expect(other.locator("tr[data-wave='2']")).to_contain_text("open since")  # by itself
    expect(other.locator("[name=wave][value='3']")).to_have_count(1)
    press(other, "Open next wave", "Open wave 3")
    expect(other.get_by_text("Wave 3 is open.")).to_be_visible()


def test_a_button_of_an_old_page_opens_nothing_twice(console: Page) -> None:
    rollout = make_rollout(waves="1, 1, rest")
    make_task(rollout=rollout, status=S.IN_PROGRESS)
    for number in (2, 3):
        make_task(rollout=rollout, wave=make_wave(rollout, number, opened_at=None))
    look_at(console, rollout)
    console.locator("summary", has_text="Open next wave").click()
    rollout.wave_set.filter(number=2).update(opened_at=timezone.now())
    console.get_by_role("button", name="Open wave 2").click()
    expect(console.get_by_text("Wave 2 is open already")).to_be_visible()
    assert rollout.wave_set.filter(opened_at=None).count() == 1


def test_failures_are_retried_and_dismissed_one_by_one_and_together(console: Page) -> None:
    rollout = make_rollout()
    first, second = make_failed(rollout), make_failed(rollout)
    third, fourth = make_failed(rollout), make_failed(rollout)
    look_at(console, rollout)
    expect(console.get_by_text("4 failed", exact=True)).to_be_visible()
    console.get_by_role("button", name=f"Retry {first.gateway}").click()
    expect(console.get_by_text("Planned 1 upgrade again.")).to_be_visible()
    console.get_by_role("button", name=f"Dismiss {second.gateway}").click()
    expect(console.get_by_text("Dismissed 1 failed upgrade.")).to_be_visible()
    press(console, "Retry all", "Retry them")
    expect(console.get_by_text("Planned 2 upgrades again.")).to_be_visible()
    expect(console.get_by_role("heading", name="Needs attention")).to_be_hidden()
    retried = set(
        UpgradeTask.objects.filter(retry_of__isnull=False).values_list("retry_of", flat=True)
    )
    assert retried == {first.pk, third.pk, fourth.pk}


def test_what_failed_is_dismissed_together(console: Page) -> None:
    rollout = make_rollout()
    make_failed(rollout)
    look_at(console, rollout)
    press(console, "Dismiss all", "Dismiss it")
    expect(console.get_by_text("Dismissed 1 failed upgrade.")).to_be_visible()
    assert not UpgradeTask.objects.needing_attention().exists()


def test_an_open_confirmation_means_the_failures_that_it_showed(console: Page) -> None:
    rollout = make_rollout()
    make_failed(rollout)
    look_at(console, rollout)
    live_page = console.locator("[data-ota-rollout]")
    stamp = live_page.get_attribute("data-stamp") or ""
    console.locator("summary", has_text="Dismiss all").click()
    later = make_failed(rollout)
    live.announce([(rollout.pk, later.pk)])
    expect(live_page).not_to_have_attribute("data-stamp", stamp)  # the page was fetched
    console.get_by_role("button", name="Dismiss it", exact=True).click()
    expect(console.get_by_text("Dismissed 1 failed upgrade.")).to_be_visible()
    assert UpgradeTask.objects.needing_attention().get() == later


def test_a_task_is_retried_from_its_own_page(console: Page) -> None:
    task = make_failed(make_rollout())
    console.goto(f"{console.url.split('/admin/')[0]}/admin/ota/upgradetask/{task.pk}/change/")
    press(console, "Retry", "Retry it")
    console.get_by_role("link", name="a new task").click()
    expect(console.get_by_role("link", name="the task before")).to_be_visible()


def test_deadline_and_limits_are_changed_and_what_is_wrong_is_marked(console: Page) -> None:
    rollout = make_task(rollout=make_rollout()).rollout
    look_at(console, rollout)
    console.locator("summary", has_text="Deadline").click()
    console.locator("#deadline input[name=deadline_at]").fill("2099-01-01T12:00")
    console.get_by_role("button", name="Set deadline").click()
    expect(console.get_by_text("2099-01-01 12:00 UTC").first).to_be_visible()
    console.locator("summary", has_text="Limits").click()
    console.locator("#limits input[name=windows]").fill("Mon 10:00-10:05")
    console.get_by_role("button", name="Change limits").click()
    expect(console.get_by_text("nothing would ever start")).to_be_visible()
    console.locator("#limits input[name=windows]").fill("daily 22:00-05:00")
    console.locator("#limits input[name=limit_per_site]").fill("2")
    console.get_by_role("button", name="Change limits").click()
    expect(console.get_by_text("20 docks at most, 2 of a site")).to_be_visible()
    rollout.refresh_from_db()
    assert (rollout.windows, rollout.limit_per_site) == ("daily 22:00-05:00", 2)


def test_an_open_page_shows_what_somebody_else_changes(console: Page) -> None:
    rollout = make_task(rollout=make_rollout(name="Spring")).rollout
    look_at(console, rollout)
    expect(console.get_by_text("20 docks at most")).to_be_visible()
    console.evaluate("window.isTheSame = true")
    rollouts.change(rollout, {"name": "Autumn", "limit_in_flight": 5}, timezone.now())
    expect(console.get_by_text("5 docks at most", exact=True)).to_be_visible()
    expect(console.locator("h1.ota-title")).to_have_text("Autumn")
    assert console.evaluate("window.isTheSame")


@pytest.mark.parametrize(
    ("verb", "button", "ends_as"),
    [("Approve", "Approve it", R.RUNNING), ("Deny", "Deny it", R.CANCELED)],
)
def test_a_second_person_decides(
    console: Page, operator: User, verb: str, button: str, ends_as: str
) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="approve_rollout"))
    rollout = make_task(rollout=make_rollout(status=R.NEEDS_APPROVAL)).rollout
    look_at(console, rollout)
    console.locator("summary", has_text=verb).click()
    console.locator("details[open] input[name=remark]").fill("Weather says so")
    console.get_by_role("button", name=button).click()
    expect(console.get_by_text("Weather says so").first).to_be_visible()
    assert now(rollout) == ends_as


def test_an_open_confirmation_resumes_only_what_it_showed(console: Page) -> None:
    rollout = make_rollout(status=R.PAUSED, pause_reason="3 failed")
    look_at(console, rollout)
    console.locator("summary", has_text="Resume").click()
    rollouts.change(rollout, {"limit_in_flight": 1000}, timezone.now())
    expect(console.get_by_text("1,000 docks at most", exact=True)).to_be_visible()  # by itself
    console.get_by_role("button", name="Resume it").click()
    expect(console.get_by_text("has changed since it was looked at")).to_be_visible()
    assert now(rollout) == R.PAUSED
    press(console, "Resume", "Resume it")
    expect(console.get_by_text("Resumed: what waits is looked at anew.")).to_be_visible()


def test_the_author_finds_no_button_to_approve(console: Page, operator: User) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="approve_rollout"))
    look_at(console, make_rollout(status=R.NEEDS_APPROVAL, created_by=operator))
    expect(console.get_by_text("Needs approval by a second person")).to_be_visible()
    expect(console.locator("summary", has_text="Approve")).to_have_count(0)


def test_a_clone_is_previewed_before_it_starts(console: Page) -> None:
    make_listening()
    dock = make_dock()
    rollout = make_task(dock, status=S.OK, finished_at=timezone.now()).rollout
    make_package("10.02.0000")  # which the rollout never had
    rest = make_dock(organization=dock.organization)
    look_at(console, rollout)
    console.get_by_role("link", name="Clone for the rest…").click()
    expect(console.locator("#ready").get_by_text(rest.sn)).to_be_visible()
    assert Rollout.objects.count() == 1
    console.get_by_role("button", name="Upgrade 1 device").click()
    expect(console.get_by_role("heading", name="Rollout, the rest").first).to_be_visible()
    assert Rollout.objects.latest("pk").target_version == NEW


def test_a_button_cannot_be_pressed_again_while_its_answer_is_awaited(console: Page) -> None:
    look_at(console, make_task().rollout)
    # An answer with which the browser stays where it is.
    console.route("**/pause/", lambda route: route.fulfill(status=204))
    console.locator("summary", has_text="Pause").click()
    button = console.get_by_role("button", name="Pause it", exact=True)
    with console.expect_request("**/pause/"):
        button.click()
    expect(button).to_be_disabled()


def test_an_operator_launches_in_waves_with_a_pilot(console: Page) -> None:
    make_package()
    docks = [make_dock() for _ in range(3)]
    pks = ",".join(str(dock.pk) for dock in docks)
    console.goto(f"{console.url.split('/admin/')[0]}/admin/fleet/device/upgrade/?pks={pks}")
    console.locator("summary", has_text="How it goes").click()
    console.fill("[name=waves]", "0%")
    console.get_by_role("button", name="Update preview").click()
    expect(console.get_by_text("'0%' is no share of a wave")).to_be_visible()
    console.fill("[name=waves]", "1, rest")
    console.fill("[name=pilot]", docks[2].sn)
    console.get_by_role("button", name="Update preview").click()
    expect(console.locator("#waves li")).to_have_text(
        ["Wave 1 · pilot 1 dock", "Wave 2 1 dock", "Wave 3 1 dock"]
    )
    console.get_by_role("button", name="Upgrade 3 devices").click()
    console.wait_for_url("**/ota/rollout/*/change/")
    expect(console.locator("tr[data-wave]")).to_have_count(3)
    assert UpgradeTask.objects.get(gateway=docks[2]).wave.title == "pilot"


def test_a_target_version_is_chosen_with_the_arrow_keys(console: Page) -> None:
    make_listening()
    for version in ("10.01.3205", "10.01.9000"):
        make_package(version)
    dock = make_dock()
    console.goto(f"{console.url.split('/admin/')[0]}/admin/fleet/device/upgrade/?pks={dock.pk}")
    target = console.get_by_label("Target version")
    target.focus()
    for chosen in ("10.01.9000", "10.01.3205"):
        console.keyboard.press("ArrowDown")
        console.wait_for_url(f"**&to={chosen}&**")
        expect(target).to_be_focused()
    console.get_by_role("link", name="Cancel").click()
    console.goto(f"{console.url.split('/admin/')[0]}/admin/fleet/device/upgrade/?pks={dock.pk}")
    expect(target).not_to_be_focused()  # only where a choice has led to the next preview


def test_a_report_is_looked_at_and_saved(console: Page, tmp_path: Path) -> None:
    task = make_failed(make_rollout(name="Spring"))
    look_at(console, task.rollout)
    console.get_by_role("link", name="Report", exact=True).click()
    expect(console.get_by_text("0 of 1 proven (0 %), 1 unsuccessful")).to_be_visible()
    with console.expect_download() as found:
        console.get_by_role("link", name="CSV of all devices").click()
    found.value.save_as(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open() as file:
        assert [row["dock"] for row in csv.DictReader(file)] == [task.gateway.sn]
