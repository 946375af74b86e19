"""Lists of many rows, page by page: what a page costs does not grow with the list.

Where rows are chosen for an action all of them are counted, because people decide by that number: ``KeyPaginator``.
Where they are only read, ``BoundedPaginator`` counts up to a bound; behind it one searches or filters instead.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.paginator import EmptyPage, Page, Paginator
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from console.keys import is_key
from console.lists import CheckedChangeList

DEPTH = 10_000


class KeyPaginator(Paginator[Any]):
    """Finds the keys of a page's rows first: what rows refer to is read and sorted for no other row.

    They are looked up in a query of their own: inside of one, databases misjudge how few they are.
    Behind the last page comes the last page: rows may have gone since the link was made.
    """

    template_name = "console/paging.html"
    is_cut = False
    object_list: QuerySet[Any]

    @cached_property
    def count(self) -> int:
        """Where all rows fit on the first page they are looked for once, and known from then on."""
        keys = list(self.object_list.order_by().values_list("pk", flat=True)[: self.per_page + 1])
        if len(keys) > self.per_page:
            return self._count()
        self.object_list = self._having(keys)
        return len(keys)

    @cached_property
    def in_all(self) -> str:
        """How many rows there are, in words."""
        return f"{self.count:,}"

    def _count(self) -> int:
        return self.object_list.count()

    def validate_number(self, number: Any) -> int:
        try:
            return super().validate_number(number)
        except EmptyPage:
            return self.num_pages

    def page(self, number: Any) -> Page[Any]:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        keys = self._keys(start, min(start + self.per_page, self.count))
        return Page(self._having(keys), number, self)

    def _keys(self, start: int, stop: int) -> list[Any]:
        """Of the rows from ``start`` to ``stop``; from the end if that is nearer.

        A database walks over all rows before them.
        """
        keys = self.object_list.values_list("pk", flat=True)
        if self.is_cut or 2 * start < self.count:
            return list(keys[start:stop])
        return list(keys.reverse()[self.count - stop : self.count - start])[::-1]

    def _having(self, keys: list[Any]) -> QuerySet[Any]:
        """The rows with these keys in the order of the list; they were chosen, and are not once more."""
        found = self.object_list.all()
        found.query.clear_where()
        return found.filter(pk__in=keys)


class BoundedPaginator(KeyPaginator):
    """Leads through the first rows; if there are more, in the order of the model, which has an index."""

    def _count(self) -> int:
        """Of the rows that it leads through."""
        found = self.object_list.order_by()[: DEPTH + 1].count()
        self.is_cut = found > DEPTH
        if self.is_cut:
            self.object_list = self.object_list.order_by(*self.object_list.model._meta.ordering)
        return min(found, DEPTH)

    @cached_property
    def in_all(self) -> str:
        """How many rows there are, in words that tell an estimate from a count."""
        if not self.is_cut:
            return f"{self.count:,}"
        if self.object_list.query.where:
            return f"more than {DEPTH:,}"
        if connection.vendor != "postgresql":
            return f"{self.object_list.count():,}"
        return f"about {self._estimate():,}"

    def _estimate(self) -> int:
        """What PostgreSQL keeps for its plans; counting a million rows takes it as long as a page may."""
        table = connection.ops.quote_name(self.object_list.model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", [table])
            return max(DEPTH, int(cursor.fetchone()[0]))


class PagedChangeList(CheckedChangeList):
    """A list that knows on which page it is, and offers no order that would have to sort all rows.

    For a request with ``is_choice`` it has no page at all, only the queryset of all its rows, which can be
    asked for.
    """

    @cached_property
    def _written(self) -> dict[str, str]:
        return {}

    def get_query_string(
        self, new_params: Mapping[str, Any] | None = None, remove: Iterable[str] | None = None
    ) -> str:
        """Each written once: the links of all columns are asked for again for each row."""
        new, old = dict(new_params or {}), list(remove or ())
        asked = repr((new, old))
        if asked not in self._written:
            self._written[asked] = super().get_query_string(new, old)
        return self._written[asked]

    def get_filters(self, request: HttpRequest) -> Any:
        """A number that no key can be is refused here; SQLite would raise something of its own."""
        told = [
            text
            for name, texts in self.filter_params.items()
            if name != SEARCH_VAR
            for text in texts
        ]
        if any(text.isdecimal() and not is_key(text) for text in told):
            raise IncorrectLookupParameters
        return super().get_filters(request)

    def get_results(self, request: HttpRequest) -> None:
        if getattr(request, "is_choice", False):
            with self.refusing_misfits():
                self.queryset.exists()
            return
        super().get_results(request)
        if not self.multi_page:
            self.result_list = self.paginator.object_list
        self.page_num = min(self.page_num, self.paginator.num_pages)
        if getattr(self.paginator, "is_cut", False):
            self.sortable_by = ()
