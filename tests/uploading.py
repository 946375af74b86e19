"""A browser's end of an upload: the requests of the tus protocol, as the console's page sends them."""

import base64
import hashlib
from typing import Any

from django.test import Client

from ota.models import Upload

ADD = "/admin/ota/firmwarepackage/add/"
CREATE = "/admin/ota/firmwarepackage/upload/"
TUS = {"Tus-Resumable": "1.0.0"}
BODY = "application/offset+octet-stream"


def metadata(**values: str) -> str:
    pairs = ((key, base64.b64encode(value.encode()).decode()) for key, value in values.items())
    return ",".join(f"{key} {value}" for key, value in pairs)


def announce(
    client: Client, size: int, name: str = "DOCK2.zip", modified: str = "1", **headers: str
) -> Any:
    told = {
        "Upload-Length": str(size),
        "Upload-Metadata": metadata(filename=name, lastmodified=modified),
    }
    return client.post(CREATE, headers=TUS | told | headers)


def created(client: Client, size: int, **values: str) -> str:
    """The address of a new upload."""
    answer = announce(client, size, **values)
    assert answer.status_code == 201, answer.content
    return str(answer.headers["Location"])


def send(client: Client, url: str, offset: int, data: bytes, **headers: str) -> Any:
    told = TUS | {"Upload-Offset": str(offset)} | headers
    return client.patch(url, data, content_type=BODY, headers=told)


def bring(client: Client, content: bytes, **values: str) -> Upload:
    """All bytes in two pieces."""
    url, half = created(client, len(content), **values), len(content) // 2
    send(client, url, 0, content[:half])
    assert send(client, url, half, content[half:]).status_code == 204
    return Upload.objects.latest("created_at")


def offset(client: Client, url: str) -> int:
    return int(client.head(url, headers=TUS).headers["Upload-Offset"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def add(client: Client, upload: Upload, **fields: Any) -> Any:
    return client.post(ADD, {"upload": str(upload.pk)} | fields)
