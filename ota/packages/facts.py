"""What is true about a zip, from what it tells and what people say; contradictions are refused."""

import datetime as dt
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from django.db.models import Q

from fleet import versions
from fleet.models import DeviceModel
from ota.models import FirmwarePackage, ProductCode
from ota.models.packages import MOST_NOTES
from ota.states import PackageState
from ota.zips import Inspection, PackageRefused

LONGEST_NAME = 200

# Control, format (bidi and invisible), surrogate, private, unassigned; line and paragraph ends.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Given(NamedTuple):
    """What people say about a zip; empty where they leave it to the zip.

    ``models`` are model keys such as ``3-2-0``. ``confirmed``: a release date that contradicts the
    zip is meant.
    """

    models: Sequence[str] = ()
    version: str = ""
    released_on: dt.date | None = None
    notes: str = ""
    draft: bool = False
    minimum_version: str = ""
    confirmed: bool = False


class Facts(NamedTuple):
    """What a package will be listed with."""

    version: str
    released_on: dt.date | None
    product_code: str
    models: list[DeviceModel]
    minimum_version: str


def settle(told: Inspection, given: Given, name: str) -> Facts:
    """Brings together what the signature entry, the file name and the operator say.

    Raises:
        PackageRefused: they contradict each other, or something is not known; names the field.
    """
    refuse_length(given.notes, name)
    version = _version(told, given, name)
    code = told.entry.product_code or told.name.product_code
    return Facts(
        version=version,
        released_on=_released_on(told, given, name),
        product_code=code,
        models=_models(code, given.models, name),
        minimum_version=minimum(given.minimum_version, version, name),
    )


def refuse_length(notes: str, name: str) -> None:
    """Release notes are shown as a whole, so they have an end.

    Raises:
        PackageRefused: they are too long.
    """
    if len(notes) > MOST_NOTES:
        raise PackageRefused(
            f"The release notes of {name} have {len(notes):,} characters; at most {MOST_NOTES:,} are kept. "
            "Shorten them, or give a link.",
            "notes",
        )


def safe_name(name: str) -> str:
    """A name that is safe in addresses, headers, logs and on screens.

    Raises:
        PackageRefused: it is not.
    """
    shown = ascii(name[:LONGEST_NAME])
    if not name.lower().endswith(".zip") or len(name) > LONGEST_NAME or name.lower() == ".zip":
        raise PackageRefused(
            f"The file name {shown} does not end in .zip or is longer than {LONGEST_NAME} characters. "
            "Give the file the vendor's name."
        )
    if any(char in "/\\" or unicodedata.category(char) in _HIDDEN for char in name):
        raise PackageRefused(
            f"The file name {shown} has path separators or invisible characters. "
            "Give the file the vendor's name."
        )
    return name


def minimum(text: str, version: str, name: str) -> str:
    """The version that devices need before a package of ``version``, in canonical form; may be empty.

    Raises:
        PackageRefused: it is no version, or not an older one.
    """
    found = _canonical(text, name, "minimum_version")
    if found and (versions.number(found) or 0) >= (versions.number(version) or 0):
        raise PackageRefused(
            f"{name} is {version} and cannot need {found} first, which is not older.",
            "minimum_version",
        )
    return found


def refuse_clash(package: FirmwarePackage, models: Sequence[DeviceModel]) -> None:
    """One version of a model has one zip, or nobody knows which one a dock has got.

    Bytes that are not known yet may be the same if their size is; a worker tells once it has read them.

    Raises:
        PackageRefused: there is another one.
    """
    never_right = ~Q(problem="") & Q(verified_at=None)
    may_be_same = Q(size=package.size)
    if package.sha256:
        may_be_same &= Q(sha256=None) | Q(sha256=package.sha256)
    valid = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN).exclude(never_right)
    same = valid.filter(version=package.version, models__in=models).exclude(pk=package.pk)
    if other := same.exclude(may_be_same).first():
        raise PackageRefused(
            f"{package.file_name} has other content than {other.file_name}, which is "
            f"{other.version} for the same model already. Withdraw that one first."
        )


def _version(told: Inspection, given: Given, name: str) -> str:
    inside, outside = told.entry.version, told.name.version
    typed = _canonical(given.version, name, "version")
    if typed and (inside or outside) and typed not in {inside, outside}:
        raise PackageRefused(
            f"{name} says that it is {inside or outside}, not {typed}. "
            "Leave the version out, or choose the right file.",
            "version",
        )
    if not typed and inside and outside and inside != outside:
        raise PackageRefused(
            f"{name} says {outside} in its name and {inside} inside. Say which one is right; what a "
            "dock will report is usually the one inside.",
            "version",
            f"--product-version {inside}",
        )
    found = typed or inside or outside
    if not found:
        raise PackageRefused(
            f"{name} does not tell its version. Say it, as {versions.FORM}.",
            "version",
            "--product-version 10.01.3205",
        )
    return found


def _released_on(told: Inspection, given: Given, name: str) -> dt.date | None:
    days = [day for day in (told.entry.released_on, told.name.released_on) if day]
    typed = given.released_on
    if typed is None and len(set(days)) > 1:
        raise PackageRefused(
            f"{name} says {days[1]} in its name and {days[0]} inside. Say the release date.",
            "released_on",
        )
    if typed and days and typed not in days and not given.confirmed:
        raise PackageRefused(
            f"{name} says that it was released on {days[0]}, not on {typed}. "
            "Leave the date out, or confirm it.",
            "released_on",
            "--confirm",
        )
    return typed or next(iter(days), None)


def _canonical(text: str, name: str, field: str) -> str:
    try:
        return versions.canonical(text) if text else ""
    except versions.InvalidVersion as error:
        raise PackageRefused(f"{name}: {error}.", field) from error


def _models(code: str, keys: Sequence[str], name: str) -> list[DeviceModel]:
    """The models that the package fits: those that were named, else those of its product code."""
    if keys:
        return _named(code, keys, name)
    known = ProductCode.objects.filter(code__iexact=code).first()
    found = list(known.models.order_by("pk")) if known else []
    if not found:
        raise PackageRefused(
            f"{name} has the product code {code or '(none)'}, which stands for no device model yet. "
            "Name its models, or teach the code under Product codes in the console.",
            "models",
            "--model 3-2-0",
        )
    return found


def _named(code: str, keys: Sequence[str], name: str) -> list[DeviceModel]:
    found = list(DeviceModel.objects.filter(key__in=keys).order_by("pk"))
    if unknown := sorted(set(keys) - {model.key for model in found}):
        raise PackageRefused(
            f"{name}: unknown device model {', '.join(unknown)}. "
            "Add it to the device models first, or correct the key.",
            "models",
        )
    _refuse_other_product(code, found, name)
    return found


def _refuse_other_product(code: str, models: Sequence[DeviceModel], name: str) -> None:
    """A code that the library knows from other products is not taken for these as well."""
    same = FirmwarePackage.objects.exclude(state=PackageState.WITHDRAWN).filter(product_code=code)
    known = DeviceModel.objects.filter(packages__in=same).distinct()
    if code and known and not set(known) & set(models):
        fits = ", ".join(sorted(model.name for model in known))
        raise PackageRefused(
            f"{name} has the product code {code}, and the packages of that code in the library are "
            f"for {fits}. Correct the models, or withdraw those packages first.",
            "models",
        )
