"""The files of packages where they are kept: in a folder of ours, or in a bucket."""

import datetime as dt
import io
import logging
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from django.core.files.storage import FileSystemStorage, storages

from ota.models import FirmwarePackage

logger = logging.getLogger(__name__)

FOLDER = "firmware"
# A bucket is asked for this much at once, bytes.
PIECE = 4 << 20
PAGE = 1000  # names, the most that a bucket lists at once

# What the library raises whose folder or bucket is away, full or not readable.
FAILURES = (OSError, BotoCoreError, ClientError)


class FileMissing(Exception):
    """The storage has no such file; it may be back later."""


class StorageAway(Exception):
    """The folder or the bucket cannot be reached or read; nothing is known about its files."""


class Stat(NamedTuple):
    """What the storage tells of a file without reading it: ``size`` in bytes, and a mark of its last change."""

    size: int
    stamp: str


class Listed(NamedTuple):
    """A file in ``FOLDER``: its name as the storage takes it, ``size`` in bytes."""

    name: str
    size: int
    changed_at: dt.datetime


def is_folder() -> bool:
    return isinstance(storages["default"], FileSystemStorage)


def path(name: str) -> Path:
    """Where a file is; only for a folder."""
    return Path(storages["default"].path(name))


def folder() -> Path:
    """Where packages are kept; made for the first of them.

    Later it can only be missing because it is not mounted. A new one in its place would make all
    packages look as if their files were gone.

    Raises:
        StorageAway: it is missing, and there are packages.
    """
    found = path(FOLDER)
    if not found.is_dir():
        if FirmwarePackage.objects.filter(purged_at=None).exists():
            raise StorageAway(f"there is no folder {found}, and there are packages; is it mounted?")
        found.mkdir(parents=True, exist_ok=True)
    return found


def stat(name: str) -> Stat:
    """Size and last change.

    Raises:
        FileMissing: there is no such file.
    """
    if is_folder():
        try:
            found = path(name).stat()
        except FileNotFoundError as error:
            raise FileMissing(name) from error
        return Stat(found.st_size, str(found.st_mtime_ns))
    head = _head(name)
    return Stat(int(head["ContentLength"]), str(head["ETag"]).strip('"'))


def open_file(name: str) -> BinaryIO:
    """The file for reading from any place; of a bucket only the pieces that are read are fetched.

    Raises:
        FileMissing: there is no such file.
    """
    if not is_folder():
        return io.BufferedReader(_BucketFile(name), PIECE)
    try:
        return path(name).open("rb")
    except FileNotFoundError as error:
        raise FileMissing(name) from error


@contextmanager
def reached() -> Iterator[None]:
    """Around what is done with the storage: tells a file that is gone from a storage that is away.

    Raises:
        FileMissing: the storage is there, and the file is not.
        StorageAway: not mounted, not reachable, not readable; it may be back later.
    """
    try:
        try:
            yield
        except FileMissing:
            _touch()
            raise
    except FAILURES as error:
        raise StorageAway(f"{type(error).__name__}: {error}"[:200]) from error


def listing() -> Iterator[Listed]:
    """All files in ``FOLDER``, whoever put them there; links are not followed."""
    _touch()
    if is_folder():
        yield from _files(path(FOLDER))
        return
    client, place = object_of(FOLDER)
    prefix = f"{place['Key']}/"
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=place["Bucket"], Prefix=prefix, PaginationConfig={"PageSize": PAGE}
    )
    for page in pages:
        for found in page.get("Contents", []):
            name = f"{FOLDER}/{found['Key'].removeprefix(prefix)}"
            yield Listed(name, found["Size"], found["LastModified"])


def remove(name: str) -> None:
    """Deletes a file; one that is not there is fine."""
    storages["default"].delete(name)


def discard(name: str) -> bool:
    """Deletes a file that belongs to nothing any more; whether that was possible.

    What stays is found by ``clean_library``, so nothing has to fail for it.
    """
    try:
        with reached():
            _touch()
            remove(name)
    except StorageAway as error:
        logger.warning("%s could not be removed now, clean_library removes it: %s", name, error)
        return False
    return True


def object_of(name: str) -> tuple[Any, dict[str, str]]:
    """The bucket's client, and the ``Bucket`` and ``Key`` of a file as its calls take them."""
    storage: Any = storages["default"]
    key = posixpath.join(storage.location, name)
    return storage.connection.meta.client, {"Bucket": storage.bucket_name, "Key": key}


def _touch() -> None:
    """Raises what the storage raises if it is not there as a whole."""
    if is_folder():
        path(FOLDER).stat()
        return
    client, place = object_of(FOLDER)
    client.head_bucket(Bucket=place["Bucket"])


def _files(folder: Path) -> Iterator[Listed]:
    root = path("")
    for found in sorted(folder.rglob("*")):
        try:
            state = found.lstat()
        except FileNotFoundError:
            continue  # removed while we looked
        if S_ISREG(state.st_mode):
            changed_at = dt.datetime.fromtimestamp(state.st_mtime, dt.UTC)
            yield Listed(found.relative_to(root).as_posix(), state.st_size, changed_at)


def _head(name: str) -> dict[str, Any]:
    client, place = object_of(name)
    try:
        found: dict[str, Any] = client.head_object(**place)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            raise FileMissing(name) from error
        raise
    return found


class _BucketFile(io.RawIOBase):
    """A bucket's object as a file that can be read from any place."""

    def __init__(self, name: str) -> None:
        self._client, self._place = object_of(name)
        self._size = int(_head(name)["ContentLength"])
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), self._size - self._offset)
        if wanted <= 0:
            return 0
        last = self._offset + wanted - 1
        answer = self._client.get_object(**self._place, Range=f"bytes={self._offset}-{last}")
        data = answer["Body"].read()
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
