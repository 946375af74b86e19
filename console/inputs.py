"""The fields of forms and lists, without templates where they are one tag.

A list has two check boxes for each row. Each took three templates, 150 us, and all of them a sixth of
the page's time. Each choice of a select took two.
"""

from typing import Any

from django.forms.renderers import DjangoTemplates
from django.http import HttpRequest
from django.template import Context
from django.utils.html import format_html
from django.utils.safestring import SafeString

# Django's templates that are nothing but an ``<input>``.
_KINDS = ("checkbox", "email", "hidden", "number", "password", "search", "tel", "text", "url")
_INPUTS = {f"django/forms/widgets/{kind}.html" for kind in _KINDS}
_OPTION = "django/forms/widgets/select_option.html"


class Renderer(DjangoTemplates):
    """Writes what Django's templates would write; the setting ``FORM_RENDERER``."""

    def render(
        self, template_name: str, context: dict[str, Any], request: HttpRequest | None = None
    ) -> str:
        if template_name in _INPUTS:
            return _input(context["widget"])
        for _, options, _ in context.get("widget", {}).get("optgroups", ()):
            for option in options:
                if option["template_name"] == _OPTION:
                    option["template_name"] = _Option()
        return str(super().render(template_name, context, request))


class _Option:
    """What the templates of selects include instead of Django's for a choice."""

    def render(self, context: Context) -> SafeString:
        widget = context["widget"]
        told = [("value", str(widget["value"])), *widget["attrs"].items()]
        attributes = SafeString("".join(_attribute(*pair) for pair in told))
        return format_html("<option{}>{}</option>\n", attributes, widget["label"])


def _input(widget: dict[str, Any]) -> SafeString:
    told = [("type", widget["type"]), ("name", widget["name"])]
    if widget["value"] is not None:
        told.append(("value", str(widget["value"])))
    attributes = [_attribute(*pair) for pair in (*told, *widget["attrs"].items())]
    return SafeString(f"<input{''.join(attributes)}>")


def _attribute(name: str, value: Any) -> SafeString | str:
    if value is False:
        return ""
    return format_html(" {}", name) if value is True else format_html(' {}="{}"', name, value)
