"""Small pieces of the console's pages: coloured labels, two lines in a cell, times that people read."""

import datetime as dt

from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

NOTHING = format_html('<span class="quiet">{}</span>', "-")


def label(text: str, colour: str = "", hint: str = "") -> SafeString:
    """A coloured label; the colours are unfold's: info, success, warning, danger, or none."""
    return format_html('<span class="tag {}" title="{}">{}</span>', colour, hint, text)


def two_lines(first: object, second: object) -> SafeString:
    """The second line, in a quieter colour, is left out where it is empty."""
    if not second:
        return format_html('<span class="lines">{}</span>', first)
    return format_html('<span class="lines">{}<small>{}</small></span>', first, second)


def ago(at: dt.datetime | None) -> SafeString:
    """How long ago, with the time itself as its hint."""
    if at is None:
        return format_html('<span class="quiet">{}</span>', "never")
    shown = localize(timezone.localtime(at))
    if timezone.now() - at < dt.timedelta(minutes=1):
        return format_html('<time title="{}">just now</time>', shown)
    return format_html('<time title="{}">{} ago</time>', shown, timesince(at, depth=1))


def link(url: str, text: object) -> SafeString:
    return format_html('<a class="text-link" href="{}">{}</a>', url, text)
