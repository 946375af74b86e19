"""Lists of the console: what an address or a form names and no row can have is no fault of ours.

Django looks at the words of a filter, not at what a database or a calendar makes of them: a number
of more than 64 bits, the year 99999, half a range.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import ValidationError
from django.db import DataError, ProgrammingError
from django.db.models import Model
from django.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin.views.main import ChangeList
else:
    # Untyped; their classes extend Django's.
    from unfold.admin import ModelAdmin
    from unfold.views import ChangeList

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)

_WRONG_FILTER = (
    "The address asked for something that this list does not know, such as a filter of an older version. "
    "It shows everything now: please filter it anew."
)

# What values raise that fit no column.
_MISFITS = (OverflowError, ValueError, IndexError, DataError, ProgrammingError)


class CheckedChangeList(ChangeList):
    """A list that says of a filter that cannot be asked for what it says of a wrong one."""

    def get_results(self, request: HttpRequest) -> None:
        """Asks for the rows: only then it is known whether a filter can be asked for."""
        with self.refusing_misfits():
            super().get_results(request)
        is_cut = getattr(self.paginator, "is_cut", False)
        if is_cut or not (self.query or self.has_active_filters):
            # Else the title tells a number too, and leads to the same list or to all of too long a one.
            self.full_result_count = self.result_count

    @contextmanager
    def refusing_misfits(self) -> Iterator[None]:
        """While the database is asked for rows.

        Raises:
            django.contrib.admin.options.IncorrectLookupParameters: a filter cannot be asked for.
        """
        try:
            yield
        except _MISFITS as error:
            if not self.filter_params:
                raise
            # It may be a fault of ours all the same, which the page does not show.
            logger.warning("a filter of %s cannot be asked for: %r", self.opts.label, error)
            raise IncorrectLookupParameters(error) from error


class ListAdmin(ModelAdmin[M]):
    """What all pages of the console extend."""

    # unfold's templates ask for it twice a row; where it is missing they look through all there is.
    list_sections = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[CheckedChangeList]:
        return CheckedChangeList

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """An action gets those of the chosen that can be rows; if none are left, nothing was chosen."""
        if request.method == "POST":
            said = request.POST.copy()
            chosen = filter(self._is_key, said.getlist(ACTION_CHECKBOX_NAME))
            said.setlist(ACTION_CHECKBOX_NAME, list(chosen))
            request.POST = said  # type: ignore[assignment]  # which may be changed, and is not
        elif request.GET.keys() == {ERROR_FLAG}:
            messages.warning(request, _WRONG_FILTER)
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def _is_key(self, text: str) -> bool:
        try:
            self.opts.pk.clean(text, None)
        except ValidationError:
            return False
        return True


class ReadOnlyAdmin(ListAdmin[M]):
    """Rows that only the machinery writes."""

    actions = None

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Nobody changes these, so there is no history."""
        context["show_history"] = False
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
