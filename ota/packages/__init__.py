"""Firmware packages: take a zip into the library, change what is said about it, take it back."""

from ota.packages.adding import add, add_upload
from ota.packages.changes import make_available, note, purge, withdraw
from ota.zips import Inspection, PackageRefused, Told, inspect

__all__ = [
    "Inspection",
    "PackageRefused",
    "Told",
    "add",
    "add_upload",
    "inspect",
    "make_available",
    "note",
    "purge",
    "withdraw",
]
