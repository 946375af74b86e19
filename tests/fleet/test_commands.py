"""`add_organization` and `adopt_devices`: what they answer, and what they refuse."""

import os

import pytest

from fleet.models import Device, Organization
from tests.calls import Run, refusal
from tests.make import make_aircraft, make_dock, make_organization

pytestmark = pytest.mark.django_db


def test_an_organization_is_made_and_its_code_told(run: Run) -> None:
    told = run.answer("add_organization", "acme", "Acme Ltd")
    made = Organization.objects.get()
    assert told == {"id": "acme", "name": "Acme Ltd", "binding_code": made.binding_code}


def test_an_organization_may_have_a_chosen_code(run: Run) -> None:
    assert run("add_organization", "acme", "Acme", "--code", "SECRET77") == 0
    assert "SECRET77" in run.out
    assert Organization.objects.get().binding_code == "SECRET77"


def test_the_name_of_an_organization_has_no_blanks_around_it(run: Run) -> None:
    assert run.answer("add_organization", "acme", " Acme ")["name"] == "Acme"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a b", "Acme"], "ID: Use letters"),
        (["acme\n", "Acme"], "ID: Use letters"),
        (["acme", ""], "NAME: "),
        (["acme", " \t"], "NAME: "),
        (["acme", "Acme", "--code", " "], "--code: "),
        (["taken", "Acme"], "ID: "),
    ],
)
def test_an_organization_that_cannot_be_is_a_wrong_call(arguments: list[str], words: str) -> None:
    make_organization(identifier="taken")
    code, message = refusal("add_organization", *arguments)
    assert code == 2
    assert words in message
    assert Organization.objects.count() == 1


def test_a_dock_is_adopted_with_its_aircraft(run: Run) -> None:
    owner = make_organization(identifier="acme")
    dock = make_dock(organization=None)
    aircraft = make_aircraft(dock)
    told = run.answer("adopt_devices", "--organization", "acme", "--sn", dock.sn)
    adopted = sorted([dock.sn, aircraft.sn])
    assert told == {"organization": "acme", "adopted": adopted, "left_out": []}
    assert Device.objects.filter(organization=owner).count() == 2


def test_serial_numbers_may_be_listed_or_repeated(run: Run) -> None:
    make_organization(identifier="acme")
    a, b, c = (make_dock(organization=None).sn for _ in range(3))
    told = run.answer(
        "adopt_devices", "--organization", "acme", "--sn", a, b, "--sn", c
    )  # fmt: skip
    assert told["adopted"] == sorted([a, b, c])


def test_what_is_adopted_already_is_no_failure(run: Run) -> None:
    dock = make_dock(organization=make_organization(identifier="acme"))
    told = run.answer("adopt_devices", "--organization", "acme", "--sn", dock.sn)
    assert [each["code"] for each in told["left_out"]] == ["bound_already"]


def test_a_device_of_somebody_else_is_left_alone(run: Run) -> None:
    make_organization(identifier="acme")
    dock = make_dock()
    assert run("adopt_devices", "--organization", "acme", "--sn", dock.sn) == 1
    assert "it belongs to another organization" in run.out
    assert Device.objects.get().organization == dock.organization


def test_all_unknown_serial_numbers_are_named_and_nothing_is_adopted() -> None:
    make_organization(identifier="acme")
    dock = make_dock(organization=None)
    code, message = refusal(
        "adopt_devices", "--organization", "acme", "--sn", "NOBODY1", dock.sn, "NOBODY2"
    )
    assert (code, message) == (2, "Unknown serial number: NOBODY1, NOBODY2")
    assert Device.objects.get().organization is None


def test_an_unknown_organization_is_a_wrong_call() -> None:
    code, message = refusal("adopt_devices", "--organization", "nobody", "--sn", make_dock().sn)
    assert (code, message) == (2, "Unknown organization: nobody")


def test_markup_in_names_is_printed_as_it_is(run: Run) -> None:
    run("add_organization", "acme", "[red]Acme[/]")
    assert "[red]Acme[/]" in run.out


def test_long_lines_are_not_cut_where_they_are_piped(run: Run) -> None:
    name = "long " * 39
    run("add_organization", "acme", name)
    assert name.strip() in run.out


@pytest.mark.parametrize(
    "call",
    [
        ["fleet_status", "--sn", "{}"],
        ["adopt_devices", "--organization", "{}", "--sn", "X"],
        ["add_organization", "acme", "{}"],
        ["start_upgrade", "--all", "--name", "{}"],
        ["start_upgrade", "--model", "3-2-0", "{}"],
        ["start_upgrade", "--all", "--user", "{}"],
        ["import_firmware", "a.zip", "--notes", "{}"],
        ["rollout", "1", "pause", "--reason", "{}"],
        ["rollout", "1", "approve", "--user", "anna", "--remark", "{}"],
    ],
)
def test_an_argument_that_is_not_utf_8_is_a_wrong_call(call: list[str]) -> None:
    garbled = os.fsdecode(b"Z\xfcrich")
    told = (2, "An argument is not UTF-8: Z\N{REPLACEMENT CHARACTER}rich")
    assert refusal(*(argument.format(garbled) for argument in call)) == told


@pytest.mark.parametrize("name", ["Acme\nInc", "Acme\rInc", "Acme\x1b[31m", "Acme\u2028Inc"])
def test_an_organizations_name_in_two_lines_is_a_wrong_call(name: str) -> None:
    told = (2, "NAME: Write it in one line, without control characters.")
    assert refusal("add_organization", "acme", name) == told
    assert not Organization.objects.exists()


def test_an_empty_serial_number_is_seen_among_the_unknown_ones() -> None:
    assert refusal("fleet_status", "--sn", "") == (2, "Unknown serial number: ''")
