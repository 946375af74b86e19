"""The doors of packages on their way in: tus 1.0.0 for a folder, presigned parts for a bucket.

Creation, termination and expiration of https://tus.io/protocols/resumable-upload are spoken.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import http_date

from ota import multipart, storage, uploads
from ota.models import FirmwarePackage, Upload
from ota.packages import PackageRefused
from ota.packages.facts import safe_name
from ota.storage import StorageAway
from ota.uploads import Announced, UploadFailed

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

VERSION = "1.0.0"
_BODY = "application/offset+octet-stream"
_PERMISSION = "ota.add_firmwarepackage"
_STATUS: dict[type[Exception], int] = {
    uploads.Gone: 404,
    uploads.Busy: 423,
    uploads.WrongOffset: 409,
    uploads.TooLong: 400,
    uploads.TooLarge: 413,
    uploads.NoRoom: 507,
}

Door = Callable[..., HttpResponse]


class Malformed(Exception):
    """A request that is not understood; the message says what is wrong with it."""


def urls(model_admin: "ModelAdmin[FirmwarePackage]") -> list[URLPattern]:
    def door(view: Door) -> Door:
        return _for_members(model_admin, view)

    name = "ota_firmwarepackage_upload"
    return [
        path("upload/", door(collection), name=name),
        path("upload/<uuid:pk>/", door(item), name=f"{name}_item"),
        path("upload/<uuid:pk>/sign/", door(sign), name=f"{name}_sign"),
        path("upload/<uuid:pk>/finish/", door(finish), name=f"{name}_finish"),
    ]


def _for_members(model_admin: "ModelAdmin[FirmwarePackage]", view: Door) -> Door:
    """Answers programs, which a redirect to a form would puzzle; the rest is the console's own door."""

    @wraps(view)
    def guarded(request: HttpRequest, **values: Any) -> HttpResponse:
        if not model_admin.admin_site.has_permission(request):
            return _text("You are not logged in (any more). Log in, and the upload goes on.", 401)
        if not request.user.has_perm(_PERMISSION):
            return _text("You may not add firmware packages.", 403)
        inside: Door = model_admin.admin_site.admin_view(view)
        try:
            with storage.reached():
                return inside(request, **values)
        except StorageAway as error:
            return _text(f"The storage of packages cannot be reached now ({error}).", 503)
        except Malformed as error:
            return _text(str(error), 400)
        except UploadFailed as error:
            return _text(str(error), _STATUS[type(error)])

    return guarded


# tus


def collection(request: HttpRequest) -> HttpResponse:
    """POST takes the announcement of a file, and tells where its bytes go."""
    if request.method == "OPTIONS":
        return _options()
    if refusal := _refusal(request, ["POST", "OPTIONS"]):
        return refusal
    upload, is_new = uploads.create(person(request), _announced(request), timezone.now())
    upload.refresh_from_db()
    answer = JsonResponse(_way(upload), status=201 if is_new else 200)
    answer["Location"] = url_of("item", upload)
    return _tus(answer, upload)


def item(request: HttpRequest, pk: UUID) -> HttpResponse:
    """HEAD tells how far an upload is, PATCH brings more of it, DELETE gives it up."""
    if request.method == "OPTIONS":
        return _options()
    if refusal := _refusal(request, ["HEAD", "PATCH", "DELETE", "OPTIONS"]):
        return refusal
    upload = _own(request, pk)
    if request.method == "DELETE":
        uploads.drop(upload)
        return _tus(HttpResponse(status=204))
    if request.method == "PATCH":
        return _patch(request, upload)
    return _tus(HttpResponse(), upload, uploads.offset_of(upload))


def _patch(request: HttpRequest, upload: Upload) -> HttpResponse:
    if request.content_type != _BODY:
        return _text(f"The content type must be {_BODY}.", 415)
    if not storage.is_folder():
        return _text("The bytes of this upload go to the bucket, under signed addresses.", 409)
    offset = uploads.append(upload, _number(request, "Upload-Offset"), request, timezone.now())
    upload.refresh_from_db()
    return _tus(HttpResponse(status=204), upload, offset)


def _options() -> HttpResponse:
    answer = HttpResponse(status=204)
    answer["Tus-Extension"] = "creation,termination,expiration"
    answer["Tus-Max-Size"] = str(uploads.limit())
    answer["Tus-Version"] = VERSION
    return _tus(answer)


def _refusal(request: HttpRequest, methods: Sequence[str]) -> HttpResponse | None:
    if request.method not in methods:
        return _text("This method is not served here.", 405, Allow=", ".join(methods))
    if request.headers.get("Tus-Resumable") != VERSION:
        return _text(
            f"The header Tus-Resumable must be {VERSION}.", 412, **{"Tus-Version": VERSION}
        )
    return None


def _announced(request: HttpRequest) -> Announced:
    told = _metadata(request.headers.get("Upload-Metadata", ""))
    try:
        name = safe_name(told.get("filename", ""))
    except PackageRefused as refusal:
        raise Malformed(str(refusal)) from refusal
    size = _number(request, "Upload-Length")
    if not size:
        raise Malformed(f"{name} is empty. Download it again.")
    return Announced(name, size, told.get("lastmodified", ""))


def _metadata(header: str) -> dict[str, str]:
    """Pairs between commas, each a key, a blank and a value in base64."""
    found = {}
    for pair in header.split(","):
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Malformed(f"Upload-Metadata: the value of {key!r} is no base64 text.") from error
    return found


def _number(request: HttpRequest, header: str) -> int:
    """The number of bytes in a header."""
    value = request.headers.get(header, "")
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise Malformed(f"The header {header} must be a number of bytes, not {value[:40]!r}.")
    return int(value)


def _tus(
    answer: HttpResponse, upload: Upload | None = None, offset: int | None = None
) -> HttpResponse:
    answer["Tus-Resumable"] = VERSION
    answer["Cache-Control"] = "no-store"
    if upload:
        answer["Upload-Length"] = str(upload.size)
        answer["Upload-Offset"] = str(upload.offset if offset is None else offset)
        answer["Upload-Expires"] = http_date(uploads.expires_at(upload).timestamp())
    return answer


def _text(words: str, status: int, **headers: str) -> HttpResponse:
    plain = HttpResponse(words, status=status, content_type="text/plain; charset=utf-8")
    for name, value in headers.items():
        plain[name] = value
    return _tus(plain)


# A bucket


def sign(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The address for one request of this upload to the bucket, as ``{"url"}``."""
    upload, asked = _own(request, pk), _json(request)
    part = asked.get("partNumber")
    if part is not None and (not isinstance(part, int) or isinstance(part, bool)):
        raise Malformed("partNumber must be a number.")
    own = (multipart.key_of(upload.key), upload.multipart_id)
    if not upload.multipart_id or (asked.get("key"), asked.get("uploadId")) != own:
        return _text("This is not your upload's place in the bucket.", 403)
    try:
        url = multipart.sign(upload.key, upload.multipart_id, str(asked.get("method")), part)
    except multipart.NotSigned as error:
        raise Malformed(str(error)) from error
    if part is not None:
        uploads.note_part(upload, part, timezone.now())
    return _tus(JsonResponse({"url": url}))


def finish(request: HttpRequest, pk: UUID) -> HttpResponse:
    """All parts are in the bucket: looks whether that is true."""
    upload = _own(request, pk)
    if request.method != "POST" or storage.is_folder():
        return _text("Only uploads to a bucket are finished here, with POST.", 405, Allow="POST")
    uploads.finish(upload, timezone.now())
    return _tus(JsonResponse(_way(upload)), upload)


def _json(request: HttpRequest) -> dict[str, Any]:
    try:
        told = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Malformed("The body must be a JSON object.") from error
    if request.method != "POST" or not isinstance(told, dict):
        raise Malformed("A JSON object must be sent with POST.")
    return told


def _way(upload: Upload) -> dict[str, Any]:
    """What a browser has to know to bring the bytes; ``bucket`` only where they go to one."""
    told = {
        "id": str(upload.pk),
        "url": url_of("item", upload),
        "size": upload.size,
        "complete": upload.is_complete,
    }
    if upload.multipart_id:
        place = {"key": multipart.key_of(upload.key), "uploadId": upload.multipart_id}
        told["bucket"] = place | {name: url_of(name, upload) for name in ("sign", "finish")}
    return told


def _own(request: HttpRequest, pk: UUID) -> Upload:
    upload = Upload.objects.filter(pk=pk, user=person(request)).first()
    if upload is None:
        raise uploads.Gone("There is no such upload (any more). Choose the file again.")
    return upload


def person(request: HttpRequest) -> User:
    """Who is logged in, as the doors of the console have made sure."""
    if not isinstance(request.user, User):
        raise Http404
    return request.user


def url_of(name: str, upload: Upload) -> str:
    """The address of one of the doors: ``item``, ``sign`` or ``finish``."""
    return reverse(f"admin:ota_firmwarepackage_upload_{name}", args=[upload.pk])
