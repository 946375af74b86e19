"""The rows of a long list, with what all cells of a column share written once.

unfold makes the headers again for each row, and takes the link to each row apart to put it together
again: a quarter of the page's time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django import template
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString
from unfold.templatetags.unfold_list import (
    CHECKBOX_CLASSES,
    LINK_CLASSES,
    ROW_CLASSES,
    UnfoldResultList,
    result_headers,
)

from console.paging import PagedChangeList

register = template.Library()


class _Column(NamedTuple):
    method: Any  # of the page, as all columns of a long list are
    begins: SafeString  # each cell
    ends: SafeString
    is_link: bool


@register.inclusion_tag("admin/change_list_results.html", takes_context=True)
def rows(context: dict[str, Any], cl: PagedChangeList) -> dict[str, Any]:
    """The table of a list, as ``unfold_result_list`` shows it; nothing can be edited in it."""
    headers = list(result_headers(cl))
    named = zip(map(str, cl.list_display), headers, strict=True)
    return {
        "cl": cl,
        "result_headers": headers,
        "num_sorted_fields": sum(header.get("sorted", False) for header in headers),
        "results": list(_rows(cl, [_column(cl, *each) for each in named])),
        "has_add_permission": cl.model_admin.has_add_permission(context["request"]),
    }


def _column(cl: PagedChangeList, name: str, header: dict[str, Any]) -> _Column:
    is_link = name in cl.list_display_links
    is_box = name == "action_checkbox"
    tag = "th" if is_link else "td"
    classes = CHECKBOX_CLASSES if is_box else [f"field-{name}", *ROW_CLASSES]
    begins = format_html(
        '<{} class="{}" data-label="{}">',
        tag,
        " ".join(classes),
        "Select record" if is_box else header["text"],
    )
    return _Column(getattr(cl.model_admin, name), begins, SafeString(f"</{tag}>"), is_link)


def _rows(cl: PagedChangeList, columns: list[_Column]) -> Iterator[UnfoldResultList]:
    kept: Any = {"preserved_filters": cl.preserved_filters, "opts": cl.opts}
    filters = None
    for row in cl.result_list:
        page = cl.url_for_result(row)
        if filters is None:  # which the links to all rows carry on
            filters = add_preserved_filters(kept, page).removeprefix(page)
        cells = [_cell(column, row, f"{page}{filters}") for column in columns]
        # As one: the template does something for each.
        yield UnfoldResultList(row, None, [SafeString("".join(cells))])


def _cell(column: _Column, row: Any, page: str) -> SafeString:
    shown = conditional_escape(column.method(row))
    if column.is_link:
        shown = format_html('<a href="{}" class="{}">{}</a>', page, " ".join(LINK_CLASSES), shown)
    return SafeString(f"{column.begins}{shown}{column.ends}")
