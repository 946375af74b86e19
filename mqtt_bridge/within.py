"""``filter(pk__in=keys)``: numbers that no column holds are equal to none, as Django has it for one number.

Forms look up what was chosen like this; SQLite raises where such a number is only asked for.
"""

from typing import Any

from django.db import models
from django.db.models.lookups import In

_BOUND = 2**63  # of the largest integers that databases hold


@models.IntegerField.register_lookup
class Within(In):
    """Whether an integer column has one of the values."""

    def get_prep_lookup(self) -> Any:
        values = super().get_prep_lookup()
        if not self.rhs_is_direct_value():
            return values
        return [one for one in values if not isinstance(one, int) or -_BOUND <= one < _BOUND]
