"""The page that adds a package: its bytes come in while the rest is filled in."""

from typing import TYPE_CHECKING, NamedTuple

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from ota import packages, storage
from ota.admin import uploads
from ota.forms import PackageForm
from ota.models import FirmwarePackage, Upload
from ota.packages import PackageRefused
from ota.storage import FileMissing, StorageAway
from ota.uploads import PIECE

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin


class Shown(NamedTuple):
    """An upload in a list."""

    upload: Upload
    percent: int
    url: str


def add_page(model_admin: "ModelAdmin[FirmwarePackage]", request: HttpRequest) -> HttpResponse:
    """Choose a file, and say about it what it does not tell itself."""
    if not model_admin.has_add_permission(request):
        raise PermissionDenied
    form = PackageForm(request.POST or None, initial={"upload": request.GET.get("upload")})
    if form.is_valid():
        package = _add(model_admin, request, form)
        if package:
            return redirect("admin:ota_firmwarepackage_change", package.pk)
    mine = [_shown(upload) for upload in Upload.objects.filter(user=uploads.person(request))]
    chosen = [one for one in mine if one.upload.is_complete and form.names(one.upload)]
    context = {
        **model_admin.admin_site.each_context(request),
        "title": "Add firmware package",
        "model_admin": model_admin,  # for the way back in the header
        "form": form,
        "chosen": chosen[0] if chosen else None,
        "others": [one for one in mine if one not in chosen],
        "piece": PIECE,
        "media": model_admin.media + form.media,
    }
    return TemplateResponse(request, "admin/ota/firmwarepackage/add.html", context)


def _add(
    model_admin: "ModelAdmin[FirmwarePackage]", request: HttpRequest, form: PackageForm
) -> FirmwarePackage | None:
    """The package that was added, or that is there already; None with the refusal at the form."""
    user = uploads.person(request)
    upload = Upload.objects.filter(pk=form.cleaned_data["upload"], user=user).first()
    if upload is None:
        form.add_error("upload", "This file is not here any more. Choose it again.")
        return None
    try:
        with storage.reached():
            package, is_new = packages.add_upload(upload, form.given(), user)
    except PackageRefused as refusal:
        form.refuse(refusal)
        return None
    except (FileMissing, StorageAway) as error:
        form.add_error("upload", f"The storage cannot be read now ({error}). Try again later.")
        return None
    if is_new:
        model_admin.log_addition(request, package, "Added.")
        model_admin.message_user(
            request, f"{package} was added. Its bytes are checked in a moment."
        )
    else:
        words = f"{package} is in the library already, with the same bytes."
        model_admin.message_user(request, words, "INFO")
    return package


def _shown(upload: Upload) -> Shown:
    return Shown(upload, upload.offset * 100 // upload.size, uploads.url_of("item", upload))
