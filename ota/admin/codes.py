"""Product codes in the console: which models the code inside a zip stands for."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import Form
from django.http import HttpRequest

from console.prefilled import PrefilledAdmin
from fleet.models import DeviceModel
from ota.models import ProductCode


@admin.register(ProductCode)
class ProductCodeAdmin(PrefilledAdmin[ProductCode]):
    when_empty = (
        "A package has a product code inside. Once it is taught here for which models a code stands, "
        "nobody has to name them any more."
    )
    list_display = ["code", "stands_for"]
    search_fields = ["code"]
    autocomplete_fields = ["models"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProductCode]:
        return super().get_queryset(request).prefetch_related("models")

    def construct_change_message(
        self, request: HttpRequest, form: Form, formsets: Any, add: bool = False
    ) -> Any:
        """Which models it stood for and which it stands for, where that changed."""
        if add or "models" not in form.changed_data:
            return super().construct_change_message(request, form, formsets, add)
        before, after = form.initial["models"], form.cleaned_data["models"]
        text = f"Models: {_names(before)} -> {_names(after)}."
        if "code" in form.changed_data:
            text += f" Code: {form.initial['code']} -> {form.cleaned_data['code']}."
        return text

    @admin.display(description="stands for")
    def stands_for(self, code: ProductCode) -> str:
        return _names(code.models.all())


def _names(models: "QuerySet[DeviceModel] | list[DeviceModel]") -> str:
    return ", ".join(model.name for model in models) or "none"
