"""The command has the very shape of the Cloud API's samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from ota import messages
from tests.make import make_aircraft, make_device, make_dock, make_package, make_target, make_task

pytestmark = pytest.mark.django_db

# Written out, not taken from the code: swapped numbers are the best known mistake here.
KINDS = {2: "consistency", 3: "regular"}
FOLDER = Path(__file__).parents[1] / "samples"


def sample(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"services.ota_create.{name}.json").read_text())
    return loaded


def command(name: str) -> dict[str, Any]:
    """Our command for the devices, versions and files of a sample."""
    found = sample(name)
    wanted = found["payload"]["data"]["devices"]
    dock = make_dock(sn=found["topic"].split("/")[2])
    task = make_task(dock)
    task.targets.all().delete()
    targets = []
    for device in wanted:
        is_dock = device["sn"] == dock.sn
        package = make_package(
            device["product_version"],
            file_name=device["file_name"],
            md5=device["md5"],
            size=device["file_size"],
        )
        upgraded = dock if is_dock else make_aircraft(dock, sn=device["sn"])
        target = make_target(task, upgraded, package, KINDS[device["firmware_upgrade_type"]])
        targets.append((target, device["file_url"]))
    return messages.command(targets)


@pytest.mark.parametrize(
    "name",
    ["regular.both", "regular.dock_only", "regular.aircraft_only", "consistency.aircraft"],
)
def test_our_command_is_the_sample(name: str) -> None:
    assert command(name) == sample(name)["payload"]["data"]


def test_the_shape_of_the_documentation_without_file_fields_is_never_sent() -> None:
    """``doc_style_mixed`` leaves four fields out for one device; ours always has all seven."""
    devices = sample("doc_style_mixed")["payload"]["data"]["devices"]
    assert sorted(len(device) for device in devices) == [3, 7]
    dock = make_device("3-1-0")
    target = make_target(make_task(dock), make_aircraft(dock), make_package("10.01.0014"))
    (sent,) = messages.command([(target, "https://fw.example.org/x.zip")])["devices"]
    assert len(sent) == 7
    assert all(value not in {"", None} for value in sent.values())
