"""Links under which docks fetch packages: signed, bound to a task and a package, for some hours."""

from typing import Any, NamedTuple
from urllib.parse import quote

from django.conf import settings
from django.core import signing
from django.core.files.storage import FileSystemStorage, storages

from ota.models import FirmwarePackage

# A dot instead of Django's colon: nothing in the link needs escaping anywhere.
_signer = signing.TimestampSigner(salt="ota.delivery", sep=".")


class LinkExpired(Exception):
    """The link was good once."""


class BadLink(Exception):
    """The link was never good: cut, changed, or of somebody else."""


class Download(NamedTuple):
    """What a link allows: this task may fetch this package."""

    task_id: int
    package_id: int


def link(task_id: int, package: FirmwarePackage) -> str:
    """The address that a dock is given, good for ``FIRMWARE_LINK_HOURS`` from now.

    From a bucket the dock fetches directly: it may not follow a redirect.
    """
    storage: Any = storages["default"]
    if not isinstance(storage, FileSystemStorage):
        seconds = int(settings.FIRMWARE_LINK_HOURS * 3600)
        return str(storage.url(package.file.name, expire=seconds))
    token = _signer.sign_object([task_id, package.pk])
    return f"{settings.FIRMWARE_URL}/firmware/{token}/{quote(package.file_name)}"


def read_link(token: str) -> Download:
    """What a token allows.

    Raises:
        LinkExpired: it was good once.
        BadLink: it was never good.
    """
    try:
        task_id, package_id = _signer.unsign_object(
            token, max_age=settings.FIRMWARE_LINK_HOURS * 3600
        )
        return Download(int(task_id), int(package_id))
    except signing.SignatureExpired as error:
        raise LinkExpired from error
    except (signing.BadSignature, ValueError, TypeError) as error:
        raise BadLink from error
