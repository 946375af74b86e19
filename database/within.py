"""``filter(pk__in=keys)`` with numbers that no row can have.

Django looks for none of them with ``=`` and ``<``; with ``in`` it hands them on, and SQLite refuses
what is larger than 64 bits. Forms and addresses may name any number, so it is left out here.
"""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.related_lookups import RelatedIn
from django.db.models.lookups import In

_MOST = 2**63 - 1


class _Within(In):
    def process_rhs(self, compiler: Any, connection: BaseDatabaseWrapper) -> Any:
        if self.rhs_is_direct_value():
            self.rhs = [value for value in self.rhs if _may_be_there(value)]
        return super().process_rhs(compiler, connection)


@models.IntegerField.register_lookup
class NumberWithin(_Within):
    """Whether an integer column has one of the values."""


@models.ForeignKey.register_lookup
class KeyWithin(_Within, RelatedIn):
    """Whether a row refers to one of those with these keys."""


def _may_be_there(value: object) -> bool:
    return not isinstance(value, int) or -_MOST <= value <= _MOST
