"""Uploads that go from the browser straight into a bucket, in parts, under presigned addresses."""

from typing import Any

from botocore.exceptions import ClientError

from ota import storage

LINK_TIME = 3600  # s, the life of an address

# What a browser may ask the bucket for, by method, in the words of the bucket's client.
_CALLS = {
    "GET": "list_parts",
    "PUT": "upload_part",
    "POST": "complete_multipart_upload",
    "DELETE": "abort_multipart_upload",
}


class NotSigned(Exception):
    """The request is none of those that carry an upload into the bucket."""


def begin(name: str) -> str:
    """Opens a multipart upload and returns the bucket's id of it."""
    client, place = storage.object_of(name)
    answer = client.create_multipart_upload(**place, ContentType="application/zip")
    return str(answer["UploadId"])


def is_open(name: str, multipart_id: str) -> bool:
    """Whether the bucket still takes parts; it does until they were put together or given up."""
    client, place = storage.object_of(name)
    try:
        client.list_parts(**place, UploadId=multipart_id, MaxParts=1)
    except ClientError as error:
        if _is_missing(error):
            return False
        raise
    return True


def give_up(name: str, multipart_id: str) -> None:
    """Lets the bucket forget the parts that have arrived; one that is not open any more is fine."""
    client, place = storage.object_of(name)
    try:
        client.abort_multipart_upload(**place, UploadId=multipart_id)
    except ClientError as error:
        if not _is_missing(error):
            raise


def key_of(name: str) -> str:
    """The object's key as the bucket knows it."""
    return storage.object_of(name)[1]["Key"]


def sign(name: str, multipart_id: str, method: str, part: int | None = None) -> str:
    """The address under which a browser may make one request of this upload, for an hour.

    Raises:
        NotSigned: the method is no step of an upload, or the part's number does not fit it.
    """
    call = _CALLS.get(method)
    if call is None or (part is None) == (method == "PUT"):
        raise NotSigned(f"A request {method} with part {part} is no step of an upload.")
    client, place = storage.object_of(name)
    values: dict[str, Any] = {**place, "UploadId": multipart_id}
    if part is not None:
        values["PartNumber"] = part
    url: str = client.generate_presigned_url(call, Params=values, ExpiresIn=LINK_TIME)
    return url


def _is_missing(error: ClientError) -> bool:
    return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] == 404)
