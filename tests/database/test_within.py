"""Rows by keys of which some can be none."""

import pytest

from fleet.models import Device
from tests.make import make_aircraft, make_dock

pytestmark = pytest.mark.django_db

HUGE = 10**20


def test_a_number_of_more_than_64_bits_is_no_rows_key() -> None:
    wanted, other = make_dock(), make_dock()
    assert list(Device.objects.filter(pk__in=[wanted.pk, HUGE, -HUGE])) == [wanted]
    assert not Device.objects.filter(pk__in=[str(HUGE)]).exists()
    assert set(Device.objects.exclude(pk__in=[HUGE])) == {wanted, other}


def test_nothing_belongs_to_a_number_of_more_than_64_bits() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    assert list(Device.objects.filter(gateway__in=[dock, HUGE])) == [aircraft]
    assert not Device.objects.filter(model__in=[HUGE]).exists()
    assert not Device.objects.filter(model__packages__in=[HUGE]).exists()


def test_rows_are_found_by_the_keys_that_a_query_finds() -> None:
    dock = make_dock()
    aircraft = make_aircraft(dock)
    assert list(Device.objects.filter(gateway__in=Device.objects.docks())) == [aircraft]
    assert dock in Device.objects.filter(pk__in=Device.objects.docks().values("pk"))
