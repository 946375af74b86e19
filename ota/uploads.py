"""Packages on their way in: pieces that may come late or never, and go on where they stopped."""

import datetime as dt
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from console.sizes import shown_size
from ota import multipart, storage
from ota.models import Upload

# Bytes that a browser sends at once, and may have to send again; a bucket takes no less than 5 MB.
PIECE = 8 << 20
_READ = 1 << 18  # bytes in memory while a piece is written
_MARGIN = 1.05  # of the size must be free: the system needs room too
_MOST_DIGESTS = 64


class UploadFailed(Exception):
    """Base of what can be wrong with an upload; the message tells people what to do."""


class Gone(UploadFailed):
    """There is no such upload any more."""


class Busy(UploadFailed):
    """Another piece of the same upload is being written."""


class WrongOffset(UploadFailed):
    """The piece does not begin where the stored bytes end."""


class TooLong(UploadFailed):
    """More bytes than were announced."""


class TooLarge(UploadFailed):
    """The file is larger than the limit."""


class NoRoom(UploadFailed):
    """The disk is full, or would be."""


class Announced(NamedTuple):
    """What a browser tells of a file before its bytes: ``size`` in bytes, ``modified`` in any form."""

    file_name: str
    size: int
    modified: str


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Digests(NamedTuple):
    """The hashes of the first ``offset`` bytes; None where they are not known."""

    offset: int
    md5: Any = None
    sha256: Any = None


# Of the uploads that this process has seen from their start, the last used ones. A process that
# takes an upload over knows none: a worker reads the file again then.
_digests: dict[uuid.UUID, _Digests] = {}


def limit() -> int:
    """The largest size of a file, bytes."""
    return int(settings.UPLOAD_LIMIT_GB * (1 << 30))


def create(user: User, announced: Announced, now: dt.datetime) -> tuple[Upload, bool]:
    """A new upload, or this person's one of the same file; tells whether it is new.

    Raises:
        TooLarge, NoRoom
    """
    _refuse_too_large(announced)
    mark = _fingerprint(announced)
    with transaction.atomic():
        # Two tabs that choose the same file at once wait for each other here.
        # A key stays free (``no_key``): others write rows that name this person meanwhile.
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        known = Upload.objects.filter(user=user, fingerprint=mark).first()
        if known and _goes_on(known, now):
            _refuse_without_room(known.file_name, known.size - known.offset)
            Upload.objects.filter(pk=known.pk).update(changed_at=now)
            return known, False
        if known:
            drop(known)
        return _begin(user, announced, mark), True


def offset_of(upload: Upload) -> int:
    """Bytes that are stored for sure: what the row says, unless the file has less.

    Raises:
        Gone: the file is not there any more.
    """
    if not storage.is_folder():
        return upload.offset
    try:
        return min(upload.offset, storage.stat(upload.key).size)
    except storage.FileMissing as error:
        raise _gone(upload) from error


def append(upload: Upload, offset: int, body: Readable, now: dt.datetime) -> int:
    """Stores a piece that begins at ``offset``, and returns the offset after it; both in bytes.

    The row is written after the bytes are on the disk. What a failed piece has written is cut off.

    Raises:
        Gone, Busy, WrongOffset, TooLong, NoRoom
    """
    with _locked(upload) as file:
        upload = _again(upload)
        stored = offset_of(upload)
        if offset != stored:
            raise WrongOffset(f"{upload.file_name} has {stored:,} bytes here, not {offset:,}.")
        try:
            digests = _write(body, file, upload, stored)
            os.fsync(file)
        except (OSError, TooLong) as error:
            os.truncate(file, stored)
            raise _in_words(error, upload) from error
        _record(upload, digests, now)
        return digests.offset


def note_part(upload: Upload, part: int, now: dt.datetime) -> None:
    """The browser sends this part to the bucket now, so those before it are there.

    Raises:
        TooLong: the file has not so many parts.
    """
    before = (part - 1) * PIECE
    if not 0 <= before < upload.size:
        raise TooLong(f"{upload.file_name} has no part {part}.")
    Upload.objects.filter(pk=upload.pk).update(offset=before, changed_at=now)


def finish(upload: Upload, now: dt.datetime) -> None:
    """Takes note that all parts are in the bucket, as one file of the announced size.

    Raises:
        Gone: they are not.
    """
    try:
        found = storage.stat(upload.key).size
    except storage.FileMissing as error:
        raise _gone(upload) from error
    if found != upload.size:
        drop(upload)
        raise Gone(
            f"{upload.file_name} has {found:,} bytes in the bucket; {upload.size:,} were announced. "
            "Choose the file again."
        )
    Upload.objects.filter(pk=upload.pk).update(offset=found, multipart_id="", changed_at=now)
    upload.offset, upload.multipart_id = found, ""


def drop(upload: Upload) -> None:
    """Forgets an upload with what has arrived of it; not once it has become a package."""
    _drop(upload, Upload.objects.all())


def _drop(upload: Upload, among: QuerySet[Upload]) -> bool:
    """Whether it was still among those, and is forgotten."""
    with transaction.atomic():
        # Who deletes the row owns the file: it may be a package's by now.
        if not among.filter(pk=upload.pk).delete()[0]:
            return False
        # Nobody but the row knows of the parts: it stays while the bucket is away.
        if upload.multipart_id:
            multipart.give_up(upload.key, upload.multipart_id)
    _digests.pop(upload.pk, None)
    storage.remove(upload.key)
    return True


def expire(now: dt.datetime) -> list[Upload]:
    """Drops the uploads to which nothing came for ``UPLOAD_DAYS``, and returns them."""
    idle = now - dt.timedelta(days=settings.UPLOAD_DAYS)
    # Asked again for each: its owner may have come back meanwhile.
    expired = Upload.objects.filter(changed_at__lt=idle)
    return [upload for upload in list(expired) if _drop(upload, expired)]


def expires_at(upload: Upload) -> dt.datetime:
    return upload.changed_at + dt.timedelta(days=settings.UPLOAD_DAYS)


def _begin(user: User, announced: Announced, mark: str) -> Upload:
    _refuse_without_room(announced.file_name, announced.size)
    upload = Upload(user=user, file_name=announced.file_name, size=announced.size, fingerprint=mark)
    upload.key = f"{storage.FOLDER}/{upload.pk}.zip"
    if storage.is_folder():
        _make_file(upload)
    else:
        upload.multipart_id = multipart.begin(upload.key)
    upload.save(force_insert=True)
    return upload


def _make_file(upload: Upload) -> None:
    path = storage.path(upload.key)
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise _in_words(error, upload) from error


def _goes_on(upload: Upload, now: dt.datetime) -> bool:
    """Whether more can come to it, or all is here."""
    try:
        found = storage.stat(upload.key).size
    except storage.FileMissing:
        found = None
    if storage.is_folder():
        return found is not None
    if found == upload.size:  # put together, and nobody came to say so
        finish(upload, now)
        return True
    return bool(upload.multipart_id) and multipart.is_open(upload.key, upload.multipart_id)


def _fingerprint(announced: Announced) -> str:
    told = f"{announced.file_name}\0{announced.size}\0{announced.modified}"
    return hashlib.sha256(told.encode()).hexdigest()


def _refuse_too_large(announced: Announced) -> None:
    if announced.size > limit():
        raise TooLarge(
            f"{announced.file_name} has {_shown(announced.size)}; at most {_shown(limit())} are "
            "taken (UPLOAD_LIMIT_GB)."
        )


def _refuse_without_room(file_name: str, wanted: int) -> None:
    if not storage.is_folder():
        return
    free = shutil.disk_usage(storage.folder()).free
    if free < wanted * _MARGIN:
        raise NoRoom(
            f"There is no room for {file_name}: it needs {_shown(wanted)}, and {_shown(free)} are "
            "free where packages are kept. Make room, then try again."
        )


@contextmanager
def _locked(upload: Upload) -> Iterator[int]:
    """The file, for one writer at a time, over all processes."""
    try:
        file = os.open(storage.path(upload.key), os.O_RDWR)
    except FileNotFoundError as error:
        raise _gone(upload) from error
    try:
        _lock(file, upload)
        yield file
    finally:
        os.close(file)  # which unlocks it


def _lock(file: int, upload: Upload) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"Another piece of {upload.file_name} is being written.") from error


def _again(upload: Upload) -> Upload:
    """The row as it is now that nobody else writes."""
    try:
        return Upload.objects.get(pk=upload.pk)
    except Upload.DoesNotExist as error:
        raise _gone(upload) from error


def _write(body: Readable, file: int, upload: Upload, start: int) -> _Digests:
    """Writes the piece from ``start`` on; the hashes stay empty where an earlier part is unknown."""
    os.truncate(file, start)
    os.lseek(file, start, os.SEEK_SET)
    known = _digests.get(upload.pk) if start else _first()
    hashes = []
    if known and known.offset == start:
        hashes = [known.md5.copy(), known.sha256.copy()]
    offset = start
    while chunk := body.read(_READ):
        offset += len(chunk)
        if offset > upload.size:
            raise TooLong(f"{upload.file_name} has more than the {upload.size:,} announced bytes.")
        _write_all(file, chunk)
        for one in hashes:
            one.update(chunk)
    return _Digests(offset, *hashes)


def _first() -> _Digests:
    return _Digests(0, hashlib.md5(usedforsecurity=False), hashlib.sha256())


def _write_all(file: int, chunk: bytes) -> None:
    """All of it, or an error: a disk that fills up takes a part first."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(file, rest) :]


def _record(upload: Upload, digests: _Digests, now: dt.datetime) -> None:
    values: dict[str, Any] = {"offset": digests.offset, "changed_at": now}
    if digests.offset == upload.size and digests.md5:
        values |= {"md5": digests.md5.hexdigest(), "sha256": digests.sha256.hexdigest()}
    if not Upload.objects.filter(pk=upload.pk).update(**values):
        raise _gone(upload)
    _keep(upload, digests)


def _keep(upload: Upload, digests: _Digests) -> None:
    _digests.pop(upload.pk, None)
    if digests.md5 and digests.offset < upload.size:
        _digests[upload.pk] = digests
    while len(_digests) > _MOST_DIGESTS:
        _digests.pop(next(iter(_digests)), None)


def _gone(upload: Upload) -> Gone:
    return Gone(
        f"What had arrived of {upload.file_name} is not here any more. Choose the file again."
    )


def _in_words(error: Exception, upload: Upload) -> Exception:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoRoom(
            f"The disk where packages are kept is full. {upload.file_name} is kept as far as it "
            "came; make room, and it goes on."
        )
    return error


def _shown(size: int) -> str:
    return shown_size(size).replace("\xa0", " ")
