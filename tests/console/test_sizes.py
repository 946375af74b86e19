"""How many bytes, in words."""

import re

import pytest
from django.conf import settings

from console.sizes import shown_size


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1_000_000, "976.6 KiB"),
        (1_500_000, "1.4 MiB"),
        (734_003_200, "700.0 MiB"),
        (4 << 30, "4.0 GiB"),
    ],
)
def test_a_size_in_units_of_1024_is_named_so(number: int, told: str) -> None:
    assert shown_size(number).replace("\xa0", " ") == told


def test_nothing_tells_a_size_in_another_way() -> None:
    rooms = [settings.BASE_DIR / room for room in ("config", "fleet", "ota")]
    files = [path for room in rooms for kind in ("py", "html") for path in room.rglob(f"*.{kind}")]
    assert not [path for path in files if re.search("filesizeformat", path.read_text())]
