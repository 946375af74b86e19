"""The peer of ``benchmarks.upload``: a Django of one view that takes a file in a form."""

import hashlib

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
application = get_asgi_application()


def take(request: HttpRequest) -> HttpResponse:
    md5 = hashlib.md5(usedforsecurity=False)
    file = request.FILES["file"]
    assert isinstance(file, UploadedFile)  # noqa: S101 (one field, one file)
    for chunk in file.chunks():
        md5.update(chunk)
    return HttpResponse(md5.hexdigest())


urlpatterns = [path("form", take), path("healthz", lambda _: HttpResponse())]
