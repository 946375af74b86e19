"""How many bytes, as people read it: in units of 1024, as the limits of this installation are, and named so."""

from django.template.defaultfilters import filesizeformat

_UNITS = {unit: f"{unit[0]}iB" for unit in ("KB", "MB", "GB", "TB", "PB")}


def shown_size(number: int | float) -> str:
    """Such as ``1.4 MiB``; Django calls that MB, which is 5 % less."""
    value, _, unit = filesizeformat(number).partition("\xa0")
    return f"{value}\xa0{_UNITS.get(unit, unit)}"
