"""The bell in the header of each page."""

from typing import Any

from django import template

from ota import notices

register = template.Library()


@register.inclusion_tag("admin/ota/notice/in_header.html", takes_context=True)
def bell(context: dict[str, Any]) -> dict[str, Any]:
    """How many notices are new; one query."""
    return {"unread": notices.unread(context["request"].user.pk)}
