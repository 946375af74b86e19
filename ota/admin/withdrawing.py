"""The question before packages are withdrawn: which ones, and what that cancels."""

from typing import Any

from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from ota import packages
from ota.models import FirmwarePackage
from ota.states import PackageState


def is_confirmed(request: HttpRequest) -> bool:
    return request.method == "POST" and request.POST.get("post") == "yes"


def ask(
    admin: ModelAdmin[Any], request: HttpRequest, chosen: QuerySet[FirmwarePackage], back: str
) -> HttpResponse:
    """The page that asks; its answer comes back to where it was asked, with ``post`` and the packages shown."""
    active = list(chosen.exclude(state=PackageState.WITHDRAWN))
    context = {
        **admin.admin_site.each_context(request),
        "title": "Withdraw",
        "model_admin": admin,  # for the way back in the header
        "opts": admin.opts,
        "packages": active,
        "waiting": packages.waiting_for(active).count(),
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "back": back,
    }
    return TemplateResponse(request, "admin/ota/firmwarepackage/withdraw.html", context)
