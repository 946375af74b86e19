"""The device's result codes: what each means, what to do, and whether to try again.

Codes and groups: DJI Cloud API v1.11.3, error codes, and the vendor's SDK; in words of our own in
``firmware_errors.json``. Some codes are not published by design: the number is always shown.
"""

import enum
import json
from pathlib import Path
from typing import NamedTuple


class Remedy(enum.StrEnum):
    """What helps against a result."""

    WAIT = "wait"
    RETRY = "retry"
    RETRY_AFTER_FIX = "retry_after_fix"
    CHANGE_SETTING = "change_setting_then_retry"
    RESTART = "restart_then_retry"
    ON_SITE = "on_site"
    FIX_REQUEST = "fix_request"
    DO_NOT_RETRY = "do_not_retry"


class Meaning(NamedTuple):
    """A result code in words."""

    meaning: str
    advice: str
    remedy: Remedy


ALREADY_UPGRADING = 312014
# The upgrade may have gone well all the same: what the device reports when it is back decides.
RESTARTED = 312028

_KNOWN = {
    int(code): Meaning(entry["meaning"], entry["advice"], Remedy(entry["remedy"]))
    for code, entry in json.loads(
        Path(__file__).with_name("firmware_errors.json").read_text()
    ).items()
}


def explain(result: int) -> Meaning:
    """The meaning of a non-zero result; an unknown one is a failure that is not tried again."""
    unknown = Meaning(
        "The device reports an error that is not documented", "Ask the vendor", Remedy.DO_NOT_RETRY
    )
    return _KNOWN.get(result, unknown)


def results_with(remedy: Remedy) -> list[int]:
    """The codes that this helps against."""
    return [code for code, known in _KNOWN.items() if known.remedy == remedy]


def advice(result: int | None) -> str | None:
    """One line for people: the number, what it means, what to do; None without an error."""
    if not result:
        return None
    known = explain(result)
    return f"{result}: {known.meaning}. {known.advice}."
