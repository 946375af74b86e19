"""Uploads whose bytes go from the browser to a bucket."""

from typing import Any

import boto3
import httpx
import pytest
from django.test import Client

from ota import storage
from ota.models import FirmwarePackage, Upload
from ota.states import PackageState
from tests.make import make_model
from tests.people import log_in, text
from tests.servers import Server
from tests.uploading import TUS, add, announce, send

pytestmark = pytest.mark.django_db


class InBucket:
    """A browser's end of an upload to a bucket."""

    def __init__(self, client: Client, content: bytes) -> None:
        self.client, self.content = client, content
        self.way = announce(client, len(content)).json()
        self.bucket = self.way["bucket"]

    def sign(self, **asked: Any) -> Any:
        told = {"key": self.bucket["key"], "uploadId": self.bucket["uploadId"]} | asked
        return self.client.post(self.bucket["sign"], told, content_type="application/json")

    def put(self, part: int, data: bytes) -> str:
        url = self.sign(method="PUT", partNumber=part).json()["url"]
        return httpx.put(url, content=data).headers["ETag"]

    def complete(self, tags: list[str]) -> httpx.Response:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        url = self.sign(method="POST").json()["url"]
        return httpx.post(
            url, content=f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
        )

    def finish(self) -> Any:
        return self.client.post(self.bucket["finish"], headers=TUS)


@pytest.fixture
def in_bucket(bucket: str, dock2: bytes) -> InBucket:
    client = Client()
    log_in(client, "Administrators")
    return InBucket(client, dock2)


@pytest.mark.services
def test_bytes_that_went_to_the_bucket_become_a_package(in_bucket: InBucket) -> None:
    assert in_bucket.complete([in_bucket.put(1, in_bucket.content)]).status_code == 200
    assert in_bucket.finish().json()["complete"]
    add(in_bucket.client, Upload.objects.get(), models=[make_model("3-2-0").pk])
    package = FirmwarePackage.objects.get()
    assert (package.state, package.md5, package.sha256) == (PackageState.CHECKING, "", None)
    with storage.open_file(str(package.file.name)) as file:
        assert file.read() == in_bucket.content


@pytest.mark.services
def test_what_cannot_be_read_is_not_signed(in_bucket: InBucket) -> None:
    for body in ("no json", "[" * 200_000, "[]"):
        answer = in_bucket.client.post(
            in_bucket.bucket["sign"], body, content_type="application/json"
        )
        assert answer.status_code == 400


@pytest.mark.services
def test_a_part_of_another_upload_is_not_signed(in_bucket: InBucket) -> None:
    for wrong in ({"key": "library/firmware/other.zip"}, {"uploadId": "other"}):
        assert in_bucket.sign(method="PUT", partNumber=1, **wrong).status_code == 403


@pytest.mark.services
@pytest.mark.parametrize(
    "asked",
    [
        {"method": "PUT"},
        {"method": "PUT", "partNumber": 0},
        {"method": "PUT", "partNumber": 2},
        {"method": "PUT", "partNumber": "1"},
        {"method": "GET", "partNumber": 1},
        {"method": "HEAD"},
        {},
    ],
)
def test_only_the_steps_of_an_upload_are_signed(in_bucket: InBucket, asked: dict[str, Any]) -> None:
    assert in_bucket.sign(**asked).status_code == 400


@pytest.mark.services
def test_a_signed_address_lives_for_an_hour(in_bucket: InBucket) -> None:
    url = httpx.URL(in_bucket.sign(method="GET").json()["url"])
    assert url.params["X-Amz-Expires"] == "3600"


@pytest.mark.services
def test_another_size_than_announced_is_refused_and_removed(in_bucket: InBucket) -> None:
    in_bucket.complete([in_bucket.put(1, in_bucket.content + b"more")])
    answer = in_bucket.finish()
    assert (answer.status_code, "were announced" in text(answer)) == (404, True)
    assert not Upload.objects.exists()
    assert not list(storage.listing())


@pytest.mark.services
def test_what_is_not_in_the_bucket_is_not_finished(in_bucket: InBucket) -> None:
    assert in_bucket.finish().status_code == 404


@pytest.mark.services
def test_giving_up_leaves_no_parts_in_the_bucket(bucket: str, in_bucket: InBucket) -> None:
    in_bucket.put(1, in_bucket.content)
    in_bucket.client.delete(in_bucket.way["url"], headers=TUS)
    found = boto3.client("s3", endpoint_url=bucket).list_multipart_uploads(Bucket="fleet")
    assert "Uploads" not in found


@pytest.mark.services
def test_an_upload_to_a_bucket_goes_on_with_the_parts_that_are_there(in_bucket: InBucket) -> None:
    in_bucket.put(1, in_bucket.content)
    again = announce(in_bucket.client, len(in_bucket.content)).json()
    assert again["bucket"] == in_bucket.bucket
    shown = httpx.get(in_bucket.sign(method="GET").json()["url"]).text
    assert f"<Size>{len(in_bucket.content)}</Size>" in shown


@pytest.mark.services
def test_an_upload_that_was_put_together_and_not_finished_is_complete_when_chosen_again(
    in_bucket: InBucket,
) -> None:
    in_bucket.complete([in_bucket.put(1, in_bucket.content)])
    assert announce(in_bucket.client, len(in_bucket.content)).json()["complete"]


@pytest.mark.services
def test_an_upload_whose_parts_the_bucket_has_forgotten_starts_anew(
    bucket: str, in_bucket: InBucket
) -> None:
    place = {"Bucket": "fleet", "Key": in_bucket.bucket["key"]}
    client = boto3.client("s3", endpoint_url=bucket)
    client.abort_multipart_upload(**place, UploadId=in_bucket.bucket["uploadId"])
    answer = announce(in_bucket.client, len(in_bucket.content))
    assert answer.status_code == 201
    assert answer.json()["id"] != in_bucket.way["id"]


@pytest.mark.services
def test_bytes_for_a_bucket_are_not_taken_here(in_bucket: InBucket) -> None:
    assert send(in_bucket.client, in_bucket.way["url"], 0, b"1").status_code == 409


@pytest.mark.services
def test_an_upload_that_is_given_up_while_the_bucket_is_away_is_not_forgotten(
    in_bucket: InBucket, s3_server: Server
) -> None:
    s3_server.kill9()
    assert in_bucket.client.delete(in_bucket.way["url"], headers=TUS).status_code == 503
    assert Upload.objects.get().multipart_id


@pytest.mark.services
def test_a_bucket_that_is_away_is_told(in_bucket: InBucket, s3_server: Server) -> None:
    s3_server.kill9()
    answer = announce(in_bucket.client, len(in_bucket.content))
    assert (answer.status_code, "cannot be reached" in text(answer)) == (503, True)
