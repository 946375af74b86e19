"""What a dock needs to fetch a package in a test: a file, an address, and a way to ask."""

import os
from urllib.parse import urlsplit

import httpx
from asgiref.sync import async_to_sync
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from config.firmware import application
from ota import delivery
from ota.models import FirmwarePackage, UpgradeTask
from ota.states import TaskStatus
from tests.make import NEW, make_package, make_task

CONTENT = os.urandom(200_000)


def store(content: bytes = CONTENT, version: str = NEW) -> FirmwarePackage:
    """A package whose file has these bytes."""
    package = make_package(version, size=len(content))
    default_storage.delete(str(package.file.name))
    package.file.save(str(package.file.name), ContentFile(content))
    return package


def path_of(task: UpgradeTask, package: FirmwarePackage) -> str:
    return urlsplit(delivery.link(task.pk, package)).path


def address_of(content: bytes = CONTENT) -> str:
    """The link of a new task for a new package."""
    package = store(content)
    task = make_task(status=TaskStatus.SENT)
    task.targets.update(package=package)
    return delivery.link(task.pk, package)


def ask(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Sync, so that the server looks into the database in the test's thread and leaves no other."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://firmware") as client:
            return await client.request(method, path, headers=names)

    return async_to_sync(send)()
