"""Firmware packages: take a zip into the library, change what is said about it, take it back."""

from ota.packages.adding import add, add_upload
from ota.packages.changes import (
    change,
    make_available,
    note,
    purge,
    refuse_change,
    waiting_for,
    withdraw,
)
from ota.zips import Inspection, PackageRefused, Told, inspect

__all__ = [
    "Inspection",
    "PackageRefused",
    "Told",
    "add",
    "add_upload",
    "change",
    "inspect",
    "make_available",
    "note",
    "purge",
    "refuse_change",
    "waiting_for",
    "withdraw",
]
