"""Which devices an operator chose in the console's list: some rows, or all that the list shows.

All of a list travel as the list's query and not as thousands of keys; what matches it is looked up
again on every page, so it stays true while the fleet changes.
"""

import copy
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib.admin import ModelAdmin
from django.contrib.admin.views.main import PAGE_VAR
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict

from console.keys import is_key
from fleet.models import Device


class Selection(NamedTuple):
    """Either the keys of devices, or the query of a list of which all are meant."""

    pks: tuple[int, ...] = ()
    query: str | None = None

    @classmethod
    def of_action(cls, request: HttpRequest, devices: QuerySet[Device]) -> "Selection":
        """What an action of the list was started with."""
        if request.POST.get("select_across") == "1":
            return cls(query=request.GET.urlencode())
        return cls(pks=tuple(devices.values_list("pk", flat=True)))

    @classmethod
    def read(cls, params: QueryDict) -> "Selection":
        """What ``params()`` wrote; what is no key is ignored."""
        query = params.get("query")
        if query is not None:
            return cls(query=query)
        parts = params.get("pks", "").split(",")
        return cls(pks=tuple(int(part) for part in parts if is_key(part)))

    def params(self) -> dict[str, str]:
        if self.query is not None:
            return {"query": self.query}
        return {"pks": ",".join(map(str, self.pks))}

    def url(self, page: str) -> str:
        """The address of a page about these devices."""
        return f"{page}?{urlencode(self.params())}"

    def devices(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> QuerySet[Device]:
        """The devices, as far as this user may see them.

        Raises:
            django.contrib.admin.options.IncorrectLookupParameters: the query fits no list.
        """
        if self.query is None:
            return model_admin.get_queryset(request).filter(pk__among=self.pks)
        listed = copy.copy(request)
        listed.GET = _without_page(self.query)
        listed.is_choice = True  # type: ignore[attr-defined]  # read by PagedChangeList
        found: QuerySet[Device] = model_admin.get_changelist_instance(listed).queryset
        return found


def _without_page(query: str) -> Any:
    """The query of a list, whichever of its pages was looked at."""
    params = QueryDict(query).copy()
    params.pop(PAGE_VAR, None)
    return params
