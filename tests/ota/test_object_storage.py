"""Packages in a bucket: stored there, and fetched there by the dock itself."""

import sys
from pathlib import Path

import boto3
import httpx
import pytest
from pytest_django import Settings

from config import env
from demo import ports
from ota import delivery, packages
from simulator.packages import SERIES, build
from tests.processes import Processes

pytestmark = pytest.mark.services


@pytest.fixture
def bucket(processes: Processes, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """The settings' storage is a bucket of a server that speaks S3."""
    url = f"http://127.0.0.1:{ports.free()}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    processes.start("s3", command, lambda process: "Running on" in process.output)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="fleet")
    monkeypatch.setenv("STORAGE_URL", f"s3://fleet/library?endpoint={url}")
    settings.STORAGES = settings.STORAGES | {"default": env.storage("STORAGE_URL", "", Path())}
    return url


def test_a_dock_fetches_ranges_straight_from_the_bucket(
    bucket: str, transactional_db: None, tmp_path: Path
) -> None:
    series = SERIES["DOCK2"]
    newest = series.newer
    path = build(tmp_path, "DOCK2", newest.version, newest.released, 300_000)
    package, _ = packages.add(path, models=series.model_keys)
    link = delivery.link(1, package)
    assert link.startswith(f"{bucket}/fleet/library/firmware/")
    answer = httpx.get(link, headers={"Range": "bytes=1000-1999"})
    assert answer.status_code == 206
    assert answer.content == path.read_bytes()[1000:2000]
