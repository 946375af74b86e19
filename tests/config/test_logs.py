"""What our processes write down."""

import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.processes import ROOT, Processes

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True)]


def test_in_json_each_line_is_an_object_also_of_the_servers_themselves(
    processes: Processes,
) -> None:
    found = [
        start(LOG_FORMAT="json") for start in (processes.web, processes.firmware, processes.bridge)
    ]
    httpx.get(f"{processes.web_url}/admin/nowhere/", follow_redirects=True)
    httpx.get(f"http://127.0.0.1:{processes.firmware_port}/firmware/bad/link")
    for process in found:
        process.terminate()
        lines = [json.loads(line) for line in process.output.splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        assert lines


@pytest.mark.parametrize("is_wanted", [True, False])
def test_firmware_delivery_logs_requests_only_where_it_is_not_told_otherwise(
    processes: Processes, is_wanted: bool
) -> None:
    code = (
        "import logging, uvicorn\n"
        f"uvicorn.Config('config.firmware:application', access_log={is_wanted}).load()\n"
        "print(logging.getLogger('uvicorn.access').hasHandlers())"
    )
    environment = os.environ | processes.environment
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment,
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{is_wanted}\n"
