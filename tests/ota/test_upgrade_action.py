"""The console's action to upgrade: the preview, its choices, and the start of a rollout."""

import datetime as dt
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from fleet.models import Device
from ota import rollouts
from ota.admin import devices as console
from ota.models import OrganizationPolicy, Rollout, UpgradeTask
from tests.calls import Run
from tests.make import (
    make_aircraft,
    make_dock,
    make_listening,
    make_model,
    make_organization,
    make_package,
    make_task,
)
from tests.people import context, log_in, text, told
from tests.servers import Server

pytestmark = pytest.mark.django_db

LIST = "/admin/fleet/device/"
PREVIEW = "/admin/fleet/device/upgrade/"
SEEN = "to=&with_aircraft=False&allow_downgrade=False"
OLDER, NEWER = "10.01.1607", "10.01.3205"


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "Operators")
    make_listening()
    return client


def confirm(client: Client, *devices: Device, **choices: Any) -> Any:
    """Presses the button of the preview; ``choices`` are the form's fields."""
    pks = ",".join(str(device.pk) for device in devices)
    form = {"pks": pks, "limit_in_flight": 5, "seen": SEEN, "do": "confirm"}
    return client.post(PREVIEW, form | choices)


def preview(client: Client, query: str) -> Any:
    return context(client, f"{PREVIEW}?{query}")["preview"]


def many(number: int) -> None:
    """As many devices, half docks and half aircraft, that need an upgrade."""
    now, organization = timezone.now(), make_organization()
    facts: dict[str, Any] = {
        "organization": organization,
        "bound_at": now,
        "presence": "online",
        "online_since": now - dt.timedelta(minutes=5),
        "firmware_version": OLDER,
        "firmware_number": 10011607,
        "compatible_status": 0,
        "mode_code": 0,
    }
    dock, aircraft = make_model("3-2-0"), make_model("0-91-1")
    docks = [
        Device(sn=f"D{n:06}", model=dock, drone_in_dock=1, battery_percent=90, **facts)
        for n in range(number // 2)
    ]
    Device.objects.bulk_create(docks)
    found = Device.objects.filter(model=dock)
    Device.objects.bulk_create(
        Device(sn=f"A{d.sn}", model=aircraft, gateway=d, **facts) for d in found
    )


# From the list to the preview


def test_only_versions_for_the_chosen_devices_models_are_offered(operator: Client) -> None:
    make_package("10.01.0001", models=("3-2-0", "3-3-0"))
    make_package("10.01.0002", models=("0-91-1",))
    make_package("10.01.0003", models=("3-3-0",))
    dock = make_dock()
    make_aircraft(dock)
    alone = [("", "The newest of each model"), ("10.01.0001", "10.01.0001 · DJI Dock 2")]
    assert offered(operator, f"pks={dock.pk}") == alone
    with_aircraft = offered(operator, f"pks={dock.pk}&with_aircraft=on")
    assert [version for version, _ in with_aircraft] == ["", "10.01.0002", "10.01.0001"]


def test_a_version_for_none_of_the_chosen_devices_is_no_choice(operator: Client) -> None:
    make_package(NEWER, models=("3-3-0",))
    found = context(operator, f"{PREVIEW}?pks={make_dock().pk}&to={NEWER}")
    assert found["form"].errors["to"]
    assert found["preview"] is None


def test_a_start_in_the_past_is_refused_beside_it(operator: Client) -> None:
    make_package(NEWER)
    dock, now = make_dock(), timezone.localtime()
    query = f"pks={dock.pk}&limit_in_flight=5&starts_at="
    found = context(operator, f"{PREVIEW}?{query}2020-01-01T00:00")
    assert "passed already: choose a later one" in found["form"].errors["starts_at"][0]
    this_minute = context(operator, f"{PREVIEW}?{query}{now:%Y-%m-%dT%H:%M}")
    assert not this_minute["form"].errors


def test_a_rollouts_name_in_two_lines_is_refused_beside_it(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock()
    page = f"{PREVIEW}?{urlencode({'pks': dock.pk, 'limit_in_flight': 5, 'name': 'One@Two'})}"
    found = context(operator, page.replace("%40", "%0A"))
    assert found["form"].errors["name"] == ["Write it in one line, without control characters."]
    confirm(operator, dock, name="One\nTwo")
    assert not Rollout.objects.exists()


def offered(client: Client, query: str) -> list[tuple[str, str]]:
    """The target versions to choose from."""
    return list(context(client, f"{PREVIEW}?{query}")["form"].fields["to"].choices)


def test_the_action_leads_to_a_preview_of_the_chosen_devices(operator: Client) -> None:
    first, second = make_dock(), make_dock()
    form = {"action": "upgrade", "_selected_action": [first.pk, second.pk]}
    address = urlsplit(operator.post(LIST, form).headers["Location"])
    assert address.path == PREVIEW
    assert parse_qs(address.query)["pks"] == [f"{first.pk},{second.pk}"]


def test_all_devices_of_a_list_travel_as_its_query(operator: Client) -> None:
    dock = make_dock()
    form = {"action": "upgrade", "_selected_action": [dock.pk], "select_across": "1"}
    address = urlsplit(operator.post(f"{LIST}?need=regular&p=1", form).headers["Location"])
    assert parse_qs(address.query) == {"query": ["need=regular&p=1"]}


def test_a_devices_page_leads_to_its_preview(operator: Client) -> None:
    dock = make_dock()
    reply = operator.get(reverse("admin:fleet_device_upgrade_one", args=[dock.pk]))
    assert reply.headers["Location"] == f"{PREVIEW}?pks={dock.pk}"


def test_who_may_only_look_gets_neither_preview_nor_rollout(client: Client) -> None:
    log_in(client, "Viewers")
    dock = make_dock()
    make_package(NEWER)
    assert client.get(f"{PREVIEW}?pks={dock.pk}").status_code == 403
    assert confirm(client, dock).status_code == 403
    assert not Rollout.objects.exists()


def test_a_viewers_device_page_has_no_upgrade_button(client: Client) -> None:
    log_in(client, "Viewers")
    page = reverse("admin:fleet_device_change", args=[make_dock().pk])
    assert "Upgrade firmware" not in text(client.get(page))


# The preview


def test_the_preview_counts_what_goes_what_waits_and_what_is_left_out(operator: Client) -> None:
    make_package(NEWER)
    make_dock(OLDER)
    make_dock(OLDER, mode_code=4)
    make_dock(NEWER)
    shown = preview(operator, "query=")
    assert (shown.ready.docks, shown.waiting.docks, shown.left_out_count) == (1, 1, 1)
    assert shown.waits_for == [("Dock busy", 1)]
    assert [group.title for group in shown.left_out] == ["Up to date"]


def test_the_preview_names_versions_kind_and_reasons(operator: Client) -> None:
    make_package(NEWER)
    make_dock(NEWER, compatible_status=1, sn="ODD")
    make_dock(OLDER, mode_code=4)
    shown = text(operator.get(f"{PREVIEW}?query="))
    for words in ("ODD", "Consistency", OLDER, NEWER, "the dock is working"):
        assert words in shown


@pytest.mark.parametrize("later", ["waves=1,rest", "starts_at=2099-01-01T10:00"])
def test_the_preview_does_not_say_now_of_what_will_not_go_now(operator: Client, later: str) -> None:
    make_package(NEWER)
    make_dock(OLDER)
    make_dock(OLDER)
    shown = text(operator.get(f"{PREVIEW}?query=&{later}"))
    assert "docks are ready" in shown
    assert "upgraded now" not in shown


def test_a_filters_devices_are_previewed_whatever_page_they_stood_on(operator: Client) -> None:
    make_package(NEWER)
    make_dock(OLDER)
    make_dock(NEWER)
    shown = preview(operator, "query=need%3Dregular%26p%3D7")
    assert (shown.docks, shown.left_out_count) == (1, 0)


def test_a_version_of_the_library_can_be_chosen(operator: Client) -> None:
    make_package(NEWER)
    make_package("10.01.2000")
    dock = make_dock(OLDER)
    task, targets = preview(operator, f"pks={dock.pk}&to=10.01.2000").ready.rows[0]
    assert task.gateway == dock
    assert targets[0][0].package.version == "10.01.2000"


def test_more_devices_than_a_rollout_takes_are_not_planned(
    operator: Client, settings: Settings
) -> None:
    settings.ROLLOUT_MOST_DEVICES = 1
    make_dock()
    make_dock()
    page = operator.get(PREVIEW, {"query": ""})
    assert "2 devices are chosen, and a rollout takes 1 at most" in text(page)
    assert (page.context_data or {})["preview"] is None


@pytest.mark.parametrize("choice", ["to=1", "limit_in_flight=0", "limit_in_flight=many"])
def test_a_wrong_choice_shows_no_plan_and_no_button(operator: Client, choice: str) -> None:
    make_package(NEWER)
    reply = operator.get(f"{PREVIEW}?pks={make_dock(OLDER).pk}&{choice}")
    assert "Please correct the choices." in text(reply)
    assert 'value="confirm"' not in text(reply)


def test_the_aircraft_of_chosen_docks_come_along_if_wanted(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock(OLDER)
    make_aircraft(dock, OLDER)
    assert preview(operator, f"pks={dock.pk}").devices == 1
    assert preview(operator, f"pks={dock.pk}&with_aircraft=on").devices == 2


def test_a_number_that_can_be_no_key_is_ignored(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock(OLDER)
    assert preview(operator, f"pks={dock.pk},{10**30},{2**63}").devices == 1


def test_forgotten_aircraft_are_hinted_at(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock(OLDER)
    aircraft = make_aircraft(dock, OLDER)
    hint = "1 aircraft of the chosen docks needs an upgrade too"
    assert hint in text(operator.get(f"{PREVIEW}?pks={dock.pk}"))
    assert hint not in text(operator.get(f"{PREVIEW}?pks={dock.pk},{aircraft.pk}"))


def test_a_dock_that_stays_behind_while_its_aircraft_goes_is_named(operator: Client) -> None:
    make_package("10.01.9000", models=("3-2-0",), minimum_version="10.01.8000")
    make_package(NEWER, models=("0-91-1",))
    for sn in ("D1", "D2"):
        make_aircraft(make_dock(OLDER, sn=sn), OLDER)
    shown = text(operator.get(f"{PREVIEW}?query="))
    assert "2 docks are parted from their aircraft" in shown
    assert "the dock itself is left out: needs 10.01.8000 first: add its package" in shown
    split = preview(operator, "query=").split
    assert (split.docks, split.left_out.device.sn) == (2, "D1")


def test_an_aircraft_that_stays_behind_while_its_dock_goes_is_named(operator: Client) -> None:
    make_package(NEWER)
    aircraft = make_aircraft(make_dock(OLDER), "")
    shown = text(operator.get(f"{PREVIEW}?query="))
    assert "1 dock is parted from its aircraft" in shown
    assert f"aircraft {aircraft} is left out: it has not reported a firmware version" in shown


@pytest.mark.parametrize("version", [NEWER, "10.01.9999"])
def test_an_aircraft_that_needs_no_upgrade_is_not_parted_from_its_dock(
    operator: Client, version: str
) -> None:
    make_package(NEWER)
    make_aircraft(make_dock(OLDER), version)
    make_dock(NEWER)
    found = preview(operator, "query=")
    assert (found.devices, found.left_out_count, found.split) == (1, 2, None)


def test_a_dock_and_its_aircraft_that_are_both_left_out_are_not_parted(operator: Client) -> None:
    make_package(NEWER)
    make_aircraft(make_dock(""), "")
    assert preview(operator, "query=").split is None


def test_a_downgrade_is_left_out_unless_it_is_allowed(operator: Client) -> None:
    make_package(OLDER)
    dock = make_dock(NEWER)
    assert preview(operator, f"pks={dock.pk}").docks == 0
    allowed = preview(operator, f"pks={dock.pk}&allow_downgrade=on")
    assert (allowed.docks, allowed.downgrades) == (1, 1)


def test_a_package_that_needs_another_one_first_is_told_the_same_everywhere(
    operator: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    make_package("10.01.9000", minimum_version="10.01.8000")
    dock = make_dock(OLDER)
    text_shown = "needs 10.01.8000 first: add its package to the library"
    reason = {"code": "needs_first", "text": text_shown}
    run = Run(capsys)
    plan = run.answer("start_upgrade", "--sn", dock.sn, "--dry-run", code=1)
    assert plan["excluded"] == [{"sn": dock.sn} | reason]
    (device,) = run.answer("fleet_status", "--sn", dock.sn)
    assert (device["need"], device["blockers"]) == ("regular", [reason])
    for url in (f"{PREVIEW}?pks={dock.pk}", LIST):
        assert text_shown in text(operator.get(url))


def test_the_release_notes_of_what_would_be_installed_are_offered(operator: Client) -> None:
    make_package("10.01.9000", models=("3-2-0",), notes="**Better** <script>")
    make_package("10.01.9001", models=("3-3-0",), notes="Not of this plan")
    shown = text(operator.get(f"{PREVIEW}?pks={make_dock(OLDER).pk}"))
    assert "<strong>Better</strong> &lt;script&gt;" in shown
    assert "Not of this plan" not in shown


def test_nothing_to_upgrade_has_no_button(operator: Client) -> None:
    reply = text(operator.get(f"{PREVIEW}?pks={make_dock().pk}"))
    assert "there is nothing to upgrade" in reply
    assert 'value="confirm"' not in reply
    assert "below stands why" in reply


def test_an_empty_list_promises_no_reason_below(operator: Client) -> None:
    reply = text(operator.get(f"{PREVIEW}?query="))
    assert "There is no such device" in reply
    assert "below stands why" not in reply


def test_a_new_choice_leads_to_the_next_preview(operator: Client) -> None:
    make_package(NEWER)
    form = {"pks": "1", "to": NEWER, "limit_in_flight": 3, "do": "preview"}
    address = urlsplit(operator.post(PREVIEW, form).headers["Location"])
    chosen = parse_qs(address.query)
    assert (chosen["pks"], chosen["to"], chosen["limit_in_flight"]) == (["1"], [NEWER], ["3"])


def test_a_long_list_is_cut_and_says_so(operator: Client) -> None:
    make_package(NEWER)
    many(460)
    reply = text(operator.get(f"{PREVIEW}?query="))
    assert "… and 30 more docks" in reply
    assert len(reply) < 1_000_000


# Starting


def test_confirming_starts_the_rollout_with_the_choices(operator: Client) -> None:
    make_package(NEWER)
    reply = confirm(operator, make_dock(OLDER), name="Spring", limit_in_flight=7)
    rollout = Rollout.objects.get()
    assert reply.headers["Location"] == reverse("admin:ota_rollout_change", args=[rollout.pk])
    assert (rollout.name, rollout.limit_in_flight) == ("Spring", 7)
    assert str(rollout.created_by) == "operators"
    assert "Spring was started for 1 dock." in told(reply)


def test_a_start_stands_in_the_history(operator: Client) -> None:
    make_package(NEWER)
    confirm(operator, make_dock(OLDER))
    entry = LogEntry.objects.get()
    assert entry.get_edited_object() == Rollout.objects.get()


def test_pressing_twice_starts_one_rollout(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock(OLDER)
    confirm(operator, dock)
    again = confirm(operator, dock)
    assert Rollout.objects.count() == 1
    assert "No rollout was started" in told(again)


def test_choices_that_were_not_previewed_are_shown_first(operator: Client) -> None:
    make_package(NEWER)
    reply = confirm(operator, make_dock(OLDER), with_aircraft="on")
    assert "look at the preview once more" in told(reply)
    assert "with_aircraft=on" in reply.headers["Location"]
    assert not Rollout.objects.exists()


@pytest.mark.parametrize(("ticked", "count"), [({}, 0), ({"accept_downgrades": "on"}, 1)])
def test_a_downgrade_wants_a_tick(operator: Client, ticked: dict[str, str], count: int) -> None:
    make_package(OLDER)
    seen = SEEN.replace("allow_downgrade=False", "allow_downgrade=True")
    confirm(operator, make_dock(NEWER), allow_downgrade="on", seen=seen, **ticked)
    assert Rollout.objects.count() == count


@pytest.mark.services
def test_a_start_goes_through_while_redis_is_away(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    console._tick()
    assert "the rollout waits for the clock" in caplog.text


def test_the_clock_is_told_after_the_commit(
    operator: Client,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    make_package(NEWER)
    dock = make_dock(OLDER)
    with django_capture_on_commit_callbacks() as callbacks:
        confirm(operator, dock)
    assert console._start_tick in callbacks


# A device's page


def test_a_devices_page_lists_its_upgrades(operator: Client) -> None:
    task = make_task(make_dock())
    page = reverse("admin:fleet_device_change", args=[task.gateway_id])
    assert reverse("admin:ota_upgradetask_change", args=[task.pk]) in text(operator.get(page))


# How it goes


def waves(client: Client, *devices: Device, **choices: Any) -> list[tuple[str, int]]:
    pks = ",".join(str(device.pk) for device in devices)
    shown = context(client, f"{PREVIEW}?{urlencode({'pks': pks} | choices)}")["preview"]
    return [tuple(wave) for wave in shown.waves]


def errors(client: Client, **choices: Any) -> dict[str, list[str]]:
    make_package(NEWER)
    address = f"{PREVIEW}?{urlencode({'pks': make_dock().pk} | choices)}"
    page = context(client, address)
    assert page["preview"] is None
    assert page["form"].is_unusual() or "limit_in_flight" in choices  # it is always to be seen
    return dict(page["form"].errors)


def test_the_preview_shows_the_waves(operator: Client) -> None:
    make_package(NEWER)
    docks = [make_dock() for _ in range(4)]
    found = waves(operator, *docks, waves="1, rest", pilot=docks[3].sn)
    assert found == [("pilot", 1), ("", 1), ("", 2)]


def test_serial_numbers_of_a_pilot_are_read_in_any_form(operator: Client) -> None:
    make_package(NEWER)
    first, second, third = make_dock(), make_dock(), make_dock()
    pilot = f" {first.sn},\r\n{second.sn};{first.sn} "
    assert waves(operator, first, second, third, pilot=pilot) == [("pilot", 2), ("", 1)]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("waves", "1, 0%", "'0%' is no share of a wave; expected 1% to 100%"),
        ("waves", "101%", "'101%' is no share of a wave; expected 1% to 100%"),
        ("waves", "60%, 60%", "the waves make 120 % of the docks; at most 100 % can go"),
        ("waves", ", ".join(["1"] * 1000), "Ensure this value has at most 300 characters"),
        ("waves", ", ".join(["1"] * 60), "60 waves; at most 50 are taken"),
        ("pilot", "NOBODY", "Not among the docks of this rollout: NOBODY."),
        ("windows", "Mon 10:00-10:00", "'Mon 10:00-10:00' never opens"),
        ("windows", "Mon 10:00-10:05", "nothing would ever start"),
        ("gate", "0", "greater than or equal to 1"),
        ("gate", "101", "less than or equal to 100"),
        ("limit_in_flight", "0", "greater than or equal to 1"),
        ("max_failed_percent", "101", "less than or equal to 100"),
        ("deadline_at", "2001-01-01T00:00", "The deadline has passed already."),
        ("starts_at", "whenever", "Enter a valid date/time."),
        ("starts_at", "0001-01-01T00:00", "This year is out of the question."),
    ],
)
def test_a_choice_that_cannot_be_is_refused_at_its_field(
    operator: Client, field: str, value: str, why: str
) -> None:
    found = errors(operator, **{"deadline_at": "", field: value})
    assert list(found) == [field]
    assert why in " ".join(found[field])


def test_a_deadline_before_the_start_is_refused_at_the_deadline(operator: Client) -> None:
    times = {"starts_at": "2099-01-02T00:00", "deadline_at": "2099-01-01T00:00"}
    assert errors(operator, **times) == {"deadline_at": ["The deadline is before the start."]}


def test_choices_are_kept_on_the_way_and_when_one_is_wrong(operator: Client) -> None:
    form = {"pks": str(make_dock().pk), "limit_in_flight": 5, "waves": "0%", "soak_minutes": 7}
    reply = operator.post(PREVIEW, form | {"policy_shown": 1, "do": "confirm"})
    shown = text(operator.get(reply.headers["Location"]))
    assert 'value="0%"' in shown
    assert 'name="soak_minutes" value="7"' in shown
    assert not Rollout.objects.exists()


def test_the_form_begins_with_the_organizations_policy(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock()
    assert dock.organization
    OrganizationPolicy.objects.create(
        organization=dock.organization, waves="1, rest", asks_between_waves=True, limit_in_flight=3
    )
    form = context(operator, f"{PREVIEW}?pks={dock.pk}")["form"]
    assert (form["waves"].value(), form["limit_in_flight"].value()) == ("1, rest", "3")
    assert form.cleaned_data["asks_between_waves"] is True
    assert not form.is_unusual()


@pytest.mark.parametrize("name", rollouts.FIELDS)
def test_the_form_asks_for_each_field_of_a_policy(operator: Client, name: str) -> None:
    """One that is not on the page comes back empty, which overrides the organization's policy."""
    assert f'name="{name}"' in text(operator.get(f"{PREVIEW}?pks={make_dock().pk}"))


def test_what_somebody_emptied_stays_empty(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock()
    full: dict[str, Any] = {"gate_first": 100, "gate": 95, "soak_minutes": 0, "failed_after": 10}
    full |= {
        "jitter_seconds": 0,
        "expected_minutes": 45,
        "max_failed_percent": "",
        "policy_shown": 1,
    }
    digest = context(operator, f"{PREVIEW}?pks={dock.pk}")["digest"]
    confirm(operator, dock, plan=digest, **full)
    rollout = Rollout.objects.get()
    assert (rollout.max_failed_percent, rollout.asks_between_waves) == (None, False)


def test_a_rollout_starts_with_what_was_chosen(operator: Client) -> None:
    make_package(NEWER)
    first, second = make_dock(), make_dock()
    chosen: dict[str, Any] = {"waves": "1, rest", "gate_first": 90, "asks_between_waves": "on"}
    chosen |= {"starts_at": "2099-01-01T21:00", "deadline_at": "2099-02-01T21:00"}
    confirm(operator, first, second, **chosen)
    rollout = Rollout.objects.get()
    assert (rollout.waves, rollout.gate_first, rollout.asks_between_waves) == ("1, rest", 90, True)
    assert rollout.starts_at == dt.datetime(2099, 1, 1, 21, tzinfo=dt.UTC)
    assert [wave.opened_at for wave in rollout.wave_set.all()] == [None, None]


def test_other_waves_than_the_preview_showed_are_shown_first(operator: Client) -> None:
    make_package(NEWER)
    first, second = make_dock(), make_dock()
    seen = context(operator, f"{PREVIEW}?pks={first.pk},{second.pk}")["digest"]
    assert "waves" in told(confirm(operator, first, second, plan=seen, waves="1, rest"))
    assert not Rollout.objects.exists()


def test_the_preview_says_when_a_second_person_is_needed(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock()
    assert dock.organization
    OrganizationPolicy.objects.create(organization=dock.organization, approval_above=0)
    assert "Needs approval by a second person" in text(operator.get(f"{PREVIEW}?pks={dock.pk}"))
    assert "waits for approval for 1 dock." in told(confirm(operator, dock))
    assert Rollout.objects.get().status == Rollout.Status.NEEDS_APPROVAL


def test_the_preview_says_when_the_hours_or_the_start_let_it_begin(operator: Client) -> None:
    make_package(NEWER)
    dock = make_dock()
    address = f"{PREVIEW}?pks={dock.pk}&starts_at=2099-01-01T12:00"
    assert "begin on Thu 2099-01-01 12:00 UTC" in text(operator.get(address))
    hours = urlencode({"windows": "Fri 22:00-05:00"})
    assert "begin on Fri 2099-01-02 22:00 UTC" in text(operator.get(f"{address}&{hours}"))
    assert "The first wave can begin" not in text(operator.get(f"{PREVIEW}?pks={dock.pk}"))


# Cost


@pytest.mark.parametrize("query", ["query=", "query=need%3Dregular&with_aircraft=on"])
def test_a_preview_costs_the_same_for_few_and_for_many_devices(
    operator: Client, query: str, django_assert_max_num_queries: Any
) -> None:
    make_package(NEWER)
    costs = []
    for number in (2, 58):
        many_more = make_organization()
        for _ in range(number // 2):
            make_aircraft(make_dock(OLDER, organization=many_more), OLDER)
        operator.get(LIST)  # the versions to choose from are remembered
        with django_assert_max_num_queries(40) as queries:
            operator.get(f"{PREVIEW}?{query}")
        costs.append(len(queries))
    assert costs[0] == costs[1]


def test_a_thousand_devices_are_previewed_with_forty_queries(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    make_package(NEWER)
    many(1000)
    with django_assert_max_num_queries(40):
        assert preview(operator, "query=need%3Dregular").devices == 1000


def test_a_thousand_devices_are_started_with_some_forty_queries(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    make_package(NEWER)
    many(1000)
    ContentType.objects.clear_cache()  # as in a process that has just started
    with django_assert_max_num_queries(42):
        confirm(operator, query="need=regular")
    assert UpgradeTask.objects.count() == 500
