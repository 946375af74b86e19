"""Firmware versions: the canonical form ``NN.NN.NNNN`` and their order.

Pages print ``10.01.32.05`` for what devices report as ``10.01.3205``; both are read, the
second is kept. Versions of batteries and payloads have another numbering and never come here.
"""

import re

FORM = "NN.NN.NNNN (as 10.01.3205) or NN.NN.NN.NN (as 10.01.32.05)"
_VERSION = re.compile(r"[vV]?(\d{2})\.(\d{2})\.(\d{2})\.?(\d{2})", re.ASCII)


class InvalidVersion(ValueError):
    """A text that is no firmware version; the message says what is expected."""


def canonical(text: str) -> str:
    """The version as ``NN.NN.NNNN``.

    Raises:
        InvalidVersion: the text has another form.
    """
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise InvalidVersion(f"{text!r} is no firmware version; expected {FORM}")
    return f"{match[1]}.{match[2]}.{match[3]}{match[4]}"


def number(text: str) -> int | None:
    """The version as one number that sorts as versions do (10.01.3205 is 10013205); None if it is none."""
    try:
        return int(canonical(text).replace(".", ""))
    except InvalidVersion:
        return None


def text(number: int) -> str:
    """The version of a ``number``, in canonical form."""
    digits = f"{number:08d}"
    return f"{digits[:2]}.{digits[2:4]}.{digits[4:]}"


def reported(text: str) -> str:
    """What a device reports, in canonical form where it has one, else as it is."""
    try:
        return canonical(text)
    except InvalidVersion:
        return text.strip()
