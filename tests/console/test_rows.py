"""The rows of a long list."""

import re
from collections import Counter
from typing import Any

import pytest
from django.contrib.admin.templatetags import admin_urls
from django.test import Client
from django.urls import reverse

from console.paging import PagedChangeList
from fleet.admin import DeviceAdmin
from tests.make import make_aircraft, make_dock
from tests.people import log_in, text

pytestmark = pytest.mark.django_db


def shown(client: Client, query: dict[str, str]) -> str:
    """The list of devices, without what differs each time and what nobody sees."""
    page = text(client.get(reverse("admin:fleet_device_changelist"), query))
    page = re.sub(r'(csrfmiddlewaretoken" value|X-CSRFToken\W+)[^>]+', "", page)
    return re.sub(r"\s*([<>])\s*", r"\1", page)


@pytest.mark.parametrize("group", ["Viewers", "Administrators"])
@pytest.mark.parametrize("query", [{}, {"o": "-2.1"}, {"presence__exact": "online", "q": "a&b{}"}])
def test_a_long_list_looks_as_unfold_writes_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, group: str, query: dict[str, str]
) -> None:
    log_in(client, group)
    make_aircraft(make_dock(callsign="a&b{} <dock>"))
    ours = shown(client, query)
    monkeypatch.setattr(DeviceAdmin, "change_list_template", None)

    assert "&lt;dock&gt;" in ours
    assert ours == shown(client, query)


def test_what_rows_have_in_common_is_worked_out_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(client, "Viewers")
    worked_out: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(*args: Any) -> Any:
            worked_out[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, name, noting)

    counted(PagedChangeList, "get_ordering_field_columns")  # once for the headers
    counted(admin_urls, "resolve")  # once for the filters that links carry on
    found = []
    for _ in range(2):
        make_aircraft(make_dock())
        worked_out.clear()
        shown(client, {"presence__exact": "online"})
        found.append(dict(worked_out))

    assert found[0] == found[1] != {}
