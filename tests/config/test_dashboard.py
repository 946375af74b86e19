"""The console's first page, who sees what, and the groups."""

import datetime as dt
import importlib
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from config import warnings
from fleet.models import Device
from mqtt_bridge.models import FailedMessage
from ota import rollouts
from ota.models import FirmwarePackage, ForeignUpgrade, PackageEvent, Rollout
from ota.states import TaskStatus
from tests.browser import PASSWORD
from tests.make import (
    make_aircraft,
    make_dock,
    make_failed,
    make_listening,
    make_organization,
    make_package,
    make_rollout,
    make_task,
    make_wave,
)
from tests.people import context, log_in, staff, text

pytestmark = pytest.mark.django_db

PAGE = "/admin/"


@pytest.fixture
def viewer(client: Client) -> Client:
    log_in(client, "Viewers")
    return client


def test_an_empty_fleet_is_led_to_its_first_upgrade(viewer: Client) -> None:
    steps = [step for step, _ in context(viewer, PAGE)["steps"]]
    assert [step.text for step in steps] == [
        "Make an organization",
        "Add firmware packages",
        "Connect a dock",
    ]
    assert not any(step.is_done for step in steps)


def test_steps_that_were_taken_are_ticked(viewer: Client) -> None:
    make_organization()
    make_package()
    assert [step.is_done for step, _ in context(viewer, PAGE)["steps"]] == [True, True, False]


@pytest.mark.parametrize(("group", "is_shown"), [("Viewers", False), ("Administrators", True)])
def test_a_steps_button_is_there_for_those_who_may_use_it(
    client: Client, group: str, is_shown: bool
) -> None:
    log_in(client, group)
    assert ("Add organization" in text(client.get(PAGE))) is is_shown


def test_the_fleet_is_counted_by_need(viewer: Client) -> None:
    make_package("10.01.3205")
    make_dock("10.01.1607")
    make_dock("10.01.1607")
    make_dock("10.01.3205")
    parts = {part.text: part.devices for part in context(viewer, PAGE)["by_need"]}
    assert parts == {"Upgrade": 2, "Up to date": 1}


def test_the_fleet_is_counted_by_model_and_version(viewer: Client) -> None:
    make_package("10.01.3205")
    make_aircraft(make_dock("10.01.1607"), "10.01.3205")
    make_dock("10.01.3205")
    dock, aircraft = context(viewer, PAGE)["by_model"]
    assert [(p.text, p.devices) for p in dock.parts] == [("10.01.3205", 1), ("10.01.1607", 1)]
    assert [(p.text, p.devices) for p in aircraft.parts] == [("10.01.3205", 1)]
    assert dock.newest == "10.01.3205"


def test_many_versions_of_a_model_end_in_one_part(viewer: Client) -> None:
    for n in range(9):
        make_dock(f"10.01.000{n}")
    parts = context(viewer, PAGE)["by_model"][0].parts
    assert (len(parts), parts[-1].text, parts[-1].devices) == (7, "older", 3)


def test_the_part_of_many_versions_leads_nowhere_for_no_list_shows_just_these(
    viewer: Client,
) -> None:
    for n in range(9):
        make_dock(f"10.01.000{n}")
    part = context(viewer, PAGE)["by_model"][0].parts[-1]
    shown = text(viewer.get(PAGE))
    assert part.url == ""
    assert 'href=""' not in shown
    assert '<a class="fill " title="older: 3"' in shown


def test_every_link_leads_to_a_page(viewer: Client) -> None:
    make_package("10.01.3205")
    Device.objects.create(sn="stray")
    make_dock("odd")
    for status in (TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.REJECTED, TaskStatus.SENT):
        make_task(make_dock(), status=status, finished_at=timezone.now())
    now = timezone.now()
    ForeignUpgrade.objects.create(gateway=make_dock(), first_seen_at=now, last_seen_at=now)
    FailedMessage.objects.keep([FailedMessage.of("topic", b"{}", now, "no")])
    found = context(viewer, PAGE)
    links = [one.url for one in (*found["tiles"], *found["attention"], *found["by_need"])]
    links += [url for row in found["by_model"] for url in (row.url, *(p.url for p in row.parts))]
    assert len(links) > 15
    assert {viewer.get(link).status_code for link in links} == {200}


def test_a_links_list_shows_what_was_counted(viewer: Client) -> None:
    for status in (TaskStatus.FAILED, TaskStatus.FAILED, TaskStatus.OK):
        make_task(make_dock(), status=status, finished_at=timezone.now())
    tile = context(viewer, PAGE)["attention"][0]
    listed = context(viewer, tile.url)["cl"]
    assert (tile.number, listed.result_count) == (2, 2)


def test_a_failed_task_is_shown_with_its_advice(viewer: Client) -> None:
    make_task(make_dock(), status=TaskStatus.FAILED, finished_at=timezone.now(), result=312704)
    assert "312704" in text(viewer.get(PAGE))


def test_a_failure_of_last_month_that_somebody_dismissed_is_forgotten(viewer: Client) -> None:
    long_ago = timezone.now() - dt.timedelta(days=30)
    status = TaskStatus.FAILED
    make_task(make_dock(), status=status, finished_at=long_ago, resolved_at=long_ago)
    assert context(viewer, PAGE)["attention"] == []


def test_what_runs_is_shown(viewer: Client) -> None:
    make_task(make_dock(callsign="Roof"), status=TaskStatus.IN_PROGRESS, percent=41)
    assert "Roof" in text(viewer.get(PAGE))


def test_the_page_costs_the_same_for_few_and_for_many_devices(
    viewer: Client, django_assert_max_num_queries: Any
) -> None:
    make_package("10.01.3205")
    costs = []
    for number in (3, 60):
        for n in range(number):
            make_dock(f"10.01.1{number}{n % 10}" if number == 3 else "10.01.3205")
        make_task(make_dock(), status=TaskStatus.FAILED, finished_at=timezone.now())
        with django_assert_max_num_queries(28) as queries:
            viewer.get(PAGE)
        costs.append(len(queries))
    assert costs[0] == costs[1]


def test_who_may_see_nothing_sees_nothing(client: Client) -> None:
    make_task(make_dock(callsign="Roof"), status=TaskStatus.IN_PROGRESS)
    client.force_login(User.objects.create(username="new", is_staff=True))
    assert "Roof" not in text(client.get(PAGE))


def test_who_may_see_nothing_is_told_so_and_not_that_all_is_well(client: Client) -> None:
    client.force_login(User.objects.create(username="new", is_staff=True))
    shown = text(client.get(PAGE))
    assert "Nothing at present" not in shown
    assert "Your account lacks the permission" in shown


def test_who_may_see_upgrades_is_told_that_nothing_needs_attention(viewer: Client) -> None:
    make_dock(organization=make_organization())
    shown = text(viewer.get(PAGE))
    assert "Nothing at present" in shown
    assert "lacks the permission" not in shown


def test_who_may_see_devices_alone_gets_no_all_clear_of_upgrades() -> None:
    make_dock(organization=make_organization())
    make_task(make_dock(), status=TaskStatus.FAILED, finished_at=timezone.now())
    shown = text(staff("view_device").get(PAGE))
    assert "Nothing at present" not in shown
    assert "lacks the permission" not in shown


# Warnings


def warnings_of(client: Client) -> str:
    return " ".join(warning.text for warning in context(client, PAGE)["warnings"])


def test_a_missing_bridge_is_told(viewer: Client) -> None:
    assert "No bridge is listening" in warnings_of(viewer)


def test_a_bridge_that_listens_is_not_missing(viewer: Client) -> None:
    make_listening()
    assert "No bridge" not in warnings_of(viewer)


def test_a_bridge_that_is_away_is_named_where_others_listen(
    viewer: Client, settings: Settings
) -> None:
    make_listening()
    gone = make_listening(connected_since=None)
    assert gone.client_id not in warnings_of(viewer)
    settings.MQTT_SHARED_GROUP = "fleet"
    assert f"Bridge {gone.client_id} is away" in warnings_of(viewer)
    assert "No bridge" not in warnings_of(viewer)


@pytest.mark.parametrize(("licence", "answers", "is_told"), [
    ("", True, True), ("licence", True, False), ("", False, False),
])  # fmt: skip
def test_a_missing_licence_is_told_where_docks_ask_for_it(
    viewer: Client, settings: Settings, licence: str, answers: bool, is_told: bool
) -> None:
    settings.DJI_APP_ID = settings.DJI_APP_KEY = "1"
    settings.DJI_APP_LICENSE, settings.MQTT_ANSWER_REQUESTS = licence, answers
    assert ("DJI_APP_LICENSE is not set" in warnings_of(viewer)) is is_told


def test_a_licence_without_its_app_is_told(viewer: Client, settings: Settings) -> None:
    settings.DJI_APP_ID, settings.DJI_APP_KEY, settings.DJI_APP_LICENSE = "", "", "licence"
    settings.MQTT_ANSWER_REQUESTS = True
    assert "DJI_APP_ID, DJI_APP_KEY are not set" in warnings_of(viewer)


def test_a_redis_that_is_away_is_told(viewer: Client, settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert "Redis does not answer" in warnings_of(viewer)


@pytest.mark.services
def test_a_worker_that_is_away_is_told(viewer: Client, redis_server: Any) -> None:
    assert "No worker answers" in warnings_of(viewer)


@pytest.mark.parametrize(
    ("broker", "is_told"), [("mqtts://broker.example.org", True), ("mqtt://127.0.0.1:1883", False)]
)
def test_a_firmware_address_that_docks_cannot_reach_is_told(
    viewer: Client, settings: Settings, broker: str, is_told: bool
) -> None:
    settings.MQTT_URL = broker
    assert ("FIRMWARE_URL" in warnings_of(viewer)) is is_told


def test_with_a_bucket_no_dock_asks_at_our_address(viewer: Client, settings: Settings) -> None:
    settings.MQTT_URL = "mqtts://broker.example.org"
    backend = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "packages"}}
    settings.STORAGES = settings.STORAGES | {"default": backend}
    assert "FIRMWARE_URL" not in warnings_of(viewer)


# Groups and users


def permissions(group: str) -> set[str]:
    rows = Group.objects.get(name=group).permissions
    return {
        f"{app}.{name}" for app, name in rows.values_list("content_type__app_label", "codename")
    }


def test_viewers_look_at_everything_of_ours_and_change_nothing(viewer: Client) -> None:
    given = permissions("Viewers")
    assert {"fleet.view_device", "ota.view_rollout", "mqtt_bridge.view_failedmessage"} <= given
    assert all(".view_" in one for one in given)


def test_operators_upgrade_and_do_not_administer(client: Client) -> None:
    log_in(client, "Operators")
    extra = {one for one in permissions("Operators") if ".view_" not in one}
    assert extra == {"ota.upgrade_devices", "fleet.change_device"}


def test_administrators_may_all_of_it_and_manage_users(client: Client) -> None:
    log_in(client, "Administrators")
    wanted = {"fleet.adopt_device", "ota.add_firmwarepackage", "auth.change_user"}
    assert wanted | {"ota.upgrade_devices"} <= permissions("Administrators")


def test_the_groups_go_and_come_with_their_migration() -> None:
    migration = importlib.import_module("ota.migrations.0002_groups")
    migration.remove(apps, connection.schema_editor())
    assert not Group.objects.filter(name="Viewers").exists()
    migration.add(apps, connection.schema_editor())
    assert "fleet.view_device" in permissions("Viewers")


def test_an_administrator_makes_nobody_a_superuser(client: Client) -> None:
    user = log_in(client, "Administrators")
    form = {"username": user.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    client.post(f"/admin/auth/user/{user.pk}/change/", form)
    user.refresh_from_db()
    assert not user.is_superuser


def test_a_new_user_may_log_in(client: Client) -> None:
    log_in(client, "Administrators")
    asked = context(client, "/admin/auth/user/add/")["adminform"].form
    form = {name: asked[name].value() or "" for name in asked.fields}
    form |= {"username": "ann", "password1": PASSWORD, "password2": PASSWORD}
    client.post("/admin/auth/user/add/", form)
    assert (
        Client().post("/admin/login/", {"username": "ann", "password": PASSWORD}).status_code == 302
    )


def test_an_administrator_does_not_touch_a_superuser(client: Client) -> None:
    log_in(client, "Administrators")
    root = User.objects.create_superuser("root")
    assert client.post(f"/admin/auth/user/{root.pk}/change/", {}).status_code == 403
    assert client.post(f"/admin/auth/user/{root.pk}/password/", {}).status_code == 403


def test_nothing_comes_from_another_host(viewer: Client) -> None:
    page = text(viewer.get(PAGE))
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "onclick" not in page


def make_damaged(**fields: Any) -> FirmwarePackage:
    values = {"state": "draft", "problem": "its file is gone. Add it again."}
    return make_package(**values | fields)


def test_a_damaged_package_is_told(viewer: Client) -> None:
    package = make_damaged()
    warning = context(viewer, PAGE)["warnings"][-1]
    assert warning.text == f"Package {package} is damaged."
    assert warning.remedy == "its file is gone. Add it again."


@pytest.mark.parametrize("fields", [{"state": "withdrawn"}, {"verified_at": None}, {"problem": ""}])
def test_only_a_package_that_was_right_before_is_damaged(
    viewer: Client, fields: dict[str, Any]
) -> None:
    make_damaged(**fields)
    assert "is damaged" not in warnings_of(viewer)


def test_packages_are_told_only_to_those_who_may_see_them(client: Client) -> None:
    make_damaged()
    client.force_login(User.objects.create(username="new", is_staff=True))
    assert "is damaged" not in warnings_of(client)


def stop(rollout: Rollout) -> None:
    rollouts.stop(rollout, "package A.zip is damaged: gone", timezone.now())


def test_a_rollout_that_the_system_paused_is_told_and_one_of_people_is_not(viewer: Client) -> None:
    stop(make_rollout(name="North"))
    rollouts.pause(make_rollout(name="South"), timezone.now())
    told = warnings_of(viewer)
    assert "Rollout North is paused: package A.zip is damaged: gone" in told
    assert "South" not in told


@pytest.mark.parametrize(("permission", "is_told"), [
    ("view_rollout", True), ("view_firmwarepackage", False), ("view_upgradetask", False),
])  # fmt: skip
def test_a_rollout_and_why_it_is_paused_are_told_only_to_those_who_may_see_rollouts(
    permission: str, is_told: bool
) -> None:
    make_task(rollout=(rollout := make_rollout(name="North")))
    stop(rollout)
    client = staff(permission)
    assert ("Rollout North is paused" in warnings_of(client)) is is_told
    assert ("<span>North" in text(client.get(PAGE))) is is_told


def test_who_may_see_rollouts_alone_is_not_told_to_lack_a_permission() -> None:
    make_dock(organization=make_organization())
    assert "lacks the permission" not in text(staff("view_rollout").get(PAGE))


def test_a_package_that_nobody_checks_is_told(viewer: Client) -> None:
    package = make_package(state="checking")
    event = PackageEvent.objects.create(package=package, at=timezone.now(), text="added")
    assert "waiting for its check" not in warnings_of(viewer)
    PackageEvent.objects.filter(pk=event.pk).update(at=timezone.now() - dt.timedelta(hours=2))
    assert f"Package {package} has been waiting for its check" in warnings_of(viewer)


def test_many_warnings_of_one_kind_are_shortened_and_cost_no_more(
    viewer: Client, django_assert_num_queries: Any
) -> None:
    counts = []
    for number in (1, 9):
        for _ in range(number):
            make_damaged()
            stop(make_rollout())
        with django_assert_num_queries(3):
            found = warnings.of_library(timezone.now()) + warnings.of_rollouts()
        counts.append(len(found))
    assert counts == [2, 8]


# What waits for a decision


def tiles(client: Client) -> set[str]:
    return {tile.text for tile in context(client, PAGE)["tiles"]}


def attention(client: Client) -> dict[str, tuple[int, str]]:
    return {tile.text: (tile.number, tile.url) for tile in context(client, PAGE)["attention"]}


def test_failures_that_nobody_has_settled_stay_however_old(viewer: Client) -> None:
    long_ago = timezone.now() - dt.timedelta(days=30)
    make_task(make_dock(), status=TaskStatus.FAILED, finished_at=long_ago)
    number, url = attention(viewer)["failed upgrade to retry or dismiss"]
    assert number == 1
    assert viewer.get(url).context["cl"].result_count == 1


def test_a_rollout_that_waits_for_approval_is_a_click_away(viewer: Client) -> None:
    rollout = make_rollout(status="needs_approval")
    page = reverse("admin:ota_rollout_change", args=[rollout.pk])
    assert attention(viewer) == {"rollout waiting for approval": (1, page)}
    make_rollout(status="needs_approval")
    number, url = attention(viewer)["rollouts waiting for approval"]
    assert (number, viewer.get(url).context["cl"].result_count) == (2, 2)


def test_a_rollout_whose_next_wave_waits_for_a_click_stands_there(viewer: Client) -> None:
    rollout = make_rollout(asks_between_waves=True)
    make_wave(rollout, 2, opened_at=None)
    assert attention(viewer) == {}
    rollout.wave_set.filter(number=1).update(met_at=timezone.now())
    assert list(attention(viewer)) == ["rollout waiting for a click to open the next wave"]


def test_a_rollout_stands_there_whose_wave_was_canceled_whole_while_something_waits_behind_it(
    viewer: Client,
) -> None:
    rollout = make_rollout()
    make_task(rollout=rollout, status=TaskStatus.CANCELED)
    second = make_wave(rollout, 2, opened_at=None)
    assert attention(viewer) == {}
    make_task(rollout=rollout, wave=second)
    assert list(attention(viewer)) == ["rollout waiting for a click to open the next wave"]
    make_task(rollout=rollout, status=TaskStatus.OK)
    assert attention(viewer) == {}


# Numbers and their words


def make_one_of_each() -> None:
    now = timezone.now()
    make_task(make_dock(organization=None), status=TaskStatus.FAILED, finished_at=now)
    other = {"first_seen_at": now, "last_seen_at": now}
    ForeignUpgrade.objects.create(gateway=Device.objects.get(), **other)
    FailedMessage.objects.create(at=now, topic="thing", payload="", reason="it is no JSON")
    make_rollout(status="needs_approval")
    asking = make_rollout(asks_between_waves=True)
    asking.wave_set.update(met_at=now)
    make_wave(asking, 2, opened_at=None)


def test_one_is_not_called_many(viewer: Client) -> None:
    make_one_of_each()
    assert set(attention(viewer)) == {
        "rollout waiting for approval",
        "rollout waiting for a click to open the next wave",
        "failed upgrade to retry or dismiss",
        "upgrade failed in the last 7 days",
        "dock upgraded by somebody else right now",
        "message not understood in the last 7 days",
        "unclaimed device",
    }
    assert "1 of 1 upgrade finished" in text(viewer.get(PAGE))


def test_an_upgrade_that_is_tried_again_counts_once(viewer: Client) -> None:
    rollout = make_rollout()
    make_failed(rollout)
    rollouts.retry(rollout, timezone.now())
    assert "0 of 1 upgrade finished" in text(viewer.get(PAGE))


def test_the_tiles_of_the_fleet_count_one_and_many(viewer: Client) -> None:
    make_package()
    make_dock()
    assert {"device", "needs an upgrade"} <= tiles(viewer)
    make_dock()
    assert {"devices", "need an upgrade"} <= tiles(viewer)
