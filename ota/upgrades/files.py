"""Whether a package's file is still the one that was checked: asked before each command goes out."""

import datetime as dt
import logging
from collections.abc import Iterable

from django.db import transaction

from ota import storage
from ota.models import FirmwarePackage, PackageEvent
from ota.needs import Reason
from ota.states import PackageState
from ota.storage import FileMissing, StorageAway

logger = logging.getLogger(__name__)


def look(packages: Iterable[FirmwarePackage], now: dt.datetime) -> dict[int, Reason]:
    """Why nothing may be sent with some of the packages, by their primary keys.

    One whose file is not as it was goes back to being checked. To be called outside of
    transactions: a bucket may take its time.
    """
    found: dict[int, Reason] = {}
    asked = list(packages)
    for place, package in enumerate(asked):
        try:
            with storage.reached():
                change = _change(package)
        except FileMissing:
            change = "its file is gone"
        except StorageAway as error:
            # Nor do the others: it was long enough to wait for one.
            logger.warning("the file of %s cannot be looked at: %s", package, error)
            reason = Reason("no_link", "the storage of the packages does not answer")
            return found | {each.pk: reason for each in asked[place:]}
        if change:
            doubt([package], f"the file changed since it was checked: {change}", now)
            text = f"package {package} is being checked: {change}"
            found[package.pk] = Reason("package_unavailable", text)
    return found


def doubt(packages: Iterable[FirmwarePackage], text: str, now: dt.datetime) -> None:
    """Has all bytes of the packages read again, unless that was done since they were read from the database.

    ``text`` says why, in their histories. Until it is done they are not sent.
    """
    for package in packages:
        as_seen = FirmwarePackage.objects.filter(pk=package.pk, stamp=package.stamp)
        with transaction.atomic():
            offered = as_seen.filter(state=PackageState.AVAILABLE)
            if offered.update(state=PackageState.CHECKING):
                PackageEvent.objects.create(package=package, at=now, text=text[:500])
                logger.warning("package %s is checked anew: %s", package, text)


def _change(package: FirmwarePackage) -> str:
    """How the file differs from what was checked; empty if it does not."""
    stat = storage.stat(str(package.file.name))
    if stat.size != package.size:
        return f"its file has {stat.size:,} bytes, not {package.size:,}"
    if package.stamp and stat.stamp != package.stamp:
        return "its file was touched"
    return ""
