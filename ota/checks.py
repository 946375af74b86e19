"""Reading every byte of a package: before it is offered, each day, and after its file changed.

A worker holds a package for a while and renews that as it reads, so that the package of a killed
one is taken up again. What it finds is written only if the package is still as it was taken.
"""

import datetime as dt
import logging
from collections.abc import Callable
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from fleet.models import DeviceModel
from mqtt_bridge import metrics
from ota import notices, rollouts, storage, zips
from ota.models import FirmwarePackage
from ota.packages import changes
from ota.packages.adding import Fingerprint, fingerprint
from ota.packages.facts import refuse_clash
from ota.states import PackageState
from ota.storage import FileMissing, Stat, StorageAway
from ota.zips import PackageRefused

logger = logging.getLogger(__name__)

LEASE = dt.timedelta(seconds=60)
RENEW_AFTER = dt.timedelta(seconds=10)
AGAIN_AFTER = dt.timedelta(seconds=30)  # while the storage is away

_AWAY = "its file cannot be read now"
_READ = (PackageState.CHECKING, PackageState.AVAILABLE)


class _HandedBack(Exception):
    """The reading ends before it knows anything; the next tick takes the package up again."""


class _Found(NamedTuple):
    """What the file is, once all of it was read and is right."""

    bytes: Fingerprint
    stamp: str


class _Claim:
    """A package that this worker reads and no other."""

    def __init__(
        self, package: FirmwarePackage, until: dt.datetime, is_ending: Callable[[], bool]
    ) -> None:
        self.package = package
        self._until = until
        self._is_ending = is_ending

    def rows(self) -> QuerySet[FirmwarePackage]:
        """The package, if it is still as it was taken up."""
        return FirmwarePackage.objects.filter(
            pk=self.package.pk, state=self.package.state, checked_until=self._until
        )

    def go_on(self, _: int = 0) -> None:
        """Called for each piece that was read.

        Raises:
            _HandedBack: there is a reason to stop.
        """
        if self._is_ending():
            raise _HandedBack("this worker ends")
        until = timezone.now() + LEASE
        if until - self._until < RENEW_AFTER:
            return
        if not self.rows().update(checked_until=until):
            raise _HandedBack("the package was changed, or another worker has it")
        self._until = until


def due(now: dt.datetime) -> QuerySet[FirmwarePackage]:
    """The packages that are to be read, those that are not offered yet first."""
    wanted = Q(state=PackageState.CHECKING)
    if settings.RECHECK_HOURS:
        old = now - dt.timedelta(hours=settings.RECHECK_HOURS)
        is_old = Q(verified_at=None) | Q(verified_at__lt=old)
        wanted |= Q(state=PackageState.AVAILABLE) & is_old
    is_free = Q(checked_until=None) | Q(checked_until__lte=now)
    oldest = F("verified_at").asc(nulls_first=True)
    return FirmwarePackage.objects.filter(wanted, is_free).order_by("-state", oldest, "pk")


def check(now: dt.datetime, is_ending: Callable[[], bool] = lambda: False) -> bool:
    """Reads one package that is due, and writes down what it found; whether there was one.

    ``is_ending`` is asked for each piece; once it is true the package is handed back.
    """
    claim = _claim(now, is_ending)
    if claim is None:
        return False
    try:
        with storage.reached():
            found = _read(claim)
        _settle(claim, found, timezone.now())
    except (_HandedBack, IntegrityError) as reason:  # the latter: the same bytes came meanwhile
        logger.info("%s is checked later: %s", claim.package, reason)
        claim.rows().update(checked_until=None)
    except StorageAway as error:
        _put_off(claim, str(error), timezone.now())
    except FileMissing:
        _refuse(claim, "its file is gone from the storage.", timezone.now())
    except PackageRefused as refusal:
        _refuse(claim, str(refusal), timezone.now())
    return True


def _claim(now: dt.datetime, is_ending: Callable[[], bool]) -> _Claim | None:
    until = now + LEASE
    for pk in list(due(now).values_list("pk", flat=True)):
        if due(now).filter(pk=pk).order_by().update(checked_until=until):
            held = FirmwarePackage.objects.filter(pk=pk, checked_until=until, state__in=_READ)
            if package := held.first():
                return _Claim(package, until, is_ending)
    return None


def _read(claim: _Claim) -> _Found:
    package = claim.package
    name, before = str(package.file.name), storage.stat(str(package.file.name))
    if before.size != package.size:
        raise PackageRefused(f"its file has {before.size:,} bytes, not {package.size:,}.")
    with storage.open_file(name) as file:
        found = fingerprint(file, claim.go_on)
        _refuse_changing(name, before)
        _compare(package, found)
        # Bytes that were right once, and have the same hash, are right.
        if package.verified_at is None:
            zips.verify(file, package.file_name, claim.go_on)
    _refuse_changing(name, before)
    return _Found(found, before.stamp)


def _refuse_changing(name: str, before: Stat) -> None:
    if storage.stat(name) != before:
        raise _HandedBack("its file changed while it was read")


def _compare(package: FirmwarePackage, found: Fingerprint) -> None:
    if package.md5 and package.md5 != found.md5:
        raise PackageRefused(f"its bytes have the MD5 {found.md5}, not {package.md5}.")
    if package.sha256 and package.sha256 != found.sha256:
        raise PackageRefused(f"its bytes have the SHA-256 {found.sha256}, not {package.sha256}.")


def _settle(claim: _Claim, found: _Found, now: dt.datetime) -> None:
    """All bytes are right: it may be offered, unless the library has them already.

    Raises:
        PackageRefused: another package has its place.
    """
    package = claim.package
    with transaction.atomic():
        models = list(package.models.all())
        # Whoever adds or settles a package of one of these models waits here for the other.
        list(DeviceModel.objects.select_for_update().filter(pk__in=[m.pk for m in models]))
        if claim.rows().select_for_update().first() is None:
            return
        twin = FirmwarePackage.objects.filter(sha256=found.bytes.sha256).exclude(pk=package.pk)
        if known := twin.first():
            _give_way(package, known, now)
            return
        package.md5, package.sha256 = found.bytes.md5, found.bytes.sha256
        # While something was wrong with it, another one may have got its place.
        if package.state == PackageState.CHECKING:
            refuse_clash(package, models)
        _confirm(claim, found, now)


def _confirm(claim: _Claim, found: _Found, now: dt.datetime) -> None:
    package = claim.package
    state = PackageState.DRAFT if package.opens_as_draft else PackageState.AVAILABLE
    if package.state == PackageState.AVAILABLE:
        state = PackageState.AVAILABLE
    claim.rows().update(
        state=state,
        md5=found.bytes.md5,
        sha256=found.bytes.sha256,
        stamp=found.stamp,
        verified_at=now,
        problem="",
        checked_until=None,
    )
    if package.state == PackageState.CHECKING:
        size, md5 = found.bytes.size, found.bytes.md5
        changes.note(
            package, now, f"all bytes checked: {size:,} bytes, MD5 {md5}; now {state.label}"
        )


def _give_way(package: FirmwarePackage, known: FirmwarePackage, now: dt.datetime) -> None:
    """The library has these bytes: one row for them is enough, and it is the older one."""
    name, who = str(package.file.name), package.created_by or "the system"
    text = f"the same bytes were uploaded again by {who}, as {package.file_name}"
    if known.state == PackageState.WITHDRAWN:
        text += "; it stays withdrawn"
    changes.note(known, now, text)
    logger.info("%s has the bytes of %s and gives way to it", package, known)
    package.delete()
    if not changes.replace_file(known, name, now):
        transaction.on_commit(lambda: storage.discard(name))


def _refuse(claim: _Claim, problem: str, now: dt.datetime) -> None:
    """It is not offered any more, nor sent in any rollout, until somebody has seen to it."""
    package = claim.package
    was_offered = package.verified_at is not None or package.targets.exists()
    with transaction.atomic():
        text = f"{problem} {_remedy(was_offered)}"[:500]
        fields = {"state": PackageState.DRAFT, "problem": text, "checked_until": None}
        if not claim.rows().update(**fields):
            return
        changes.note(package, now, f"not as it should be: {problem}")
        if was_offered:
            notices.damaged(package, problem, now)
        for rollout in changes.rollouts_of(package):
            if rollouts.stop(rollout, f"package {package} is damaged: {problem}", now):
                changes.note(package, now, f"paused rollout {rollout.pk}, {rollout}")
    if was_offered:
        logger.error("package %s is damaged: %s", package, problem)
        metrics.count("packages_damaged")
    else:
        logger.warning("package %s cannot be offered: %s", package, problem)


def _remedy(was_offered: bool) -> str:
    if was_offered:
        return "Add the vendor's zip again, which takes the place of this file, or withdraw it."
    return "Delete this package, and upload the vendor's zip anew."


def _put_off(claim: _Claim, reason: str, now: dt.datetime) -> None:
    """Says so once, however long it lasts."""
    package = claim.package
    logger.warning("%s is checked later: %s", package, reason)
    if not claim.rows().update(checked_until=now + AGAIN_AFTER):
        return
    last = package.events.last()
    if last is None or not last.text.startswith(_AWAY):
        changes.note(package, now, f"{_AWAY}, and is tried again: {reason}")
