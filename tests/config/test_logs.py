"""What our processes write down."""

import json

import httpx
import pytest

from tests.processes import Processes

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
