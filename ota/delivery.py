"""Links under which docks fetch packages: signed, bound to a task and a package, for some hours."""

from typing import Any, NamedTuple
from urllib.parse import quote

from django.conf import settings
from django.core import signing
from django.core.files.storage import storages

from ota import storage
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

    From a bucket the dock fetches directly, because it may not follow a redirect; unless
    ``FIRMWARE_S3_REDIRECT`` says that it does.
    """
    if not storage.is_folder() and not settings.FIRMWARE_S3_REDIRECT:
        return bucket_link(package, settings.FIRMWARE_LINK_HOURS * 3600)
    token = _signer.sign_object([task_id, package.pk])
    # A name is for people only. A slash would make it two, and is not told from one by proxies.
    name = quote(package.file_name.replace("/", "_"), safe="", errors="replace")
    return f"{settings.FIRMWARE_URL}/firmware/{token}/{name}"


def bucket_link(package: FirmwarePackage, seconds: float) -> str:
    """The package's address in the bucket, good for so long."""
    bucket: Any = storages["default"]
    return str(bucket.url(package.file.name, expire=int(seconds)))


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
