"""How long to wait before something is sent again that could not be sent."""

import datetime as dt

# Minutes after each failed attempt; together less than a day.
_MINUTES = (1, 5, 30, 2 * 60, 6 * 60, 12 * 60)
MOST = len(_MINUTES)


def after(attempts: int) -> dt.timedelta | None:
    """The pause after so many failed attempts, one at least; None if it is given up."""
    return dt.timedelta(minutes=_MINUTES[attempts - 1]) if attempts <= MOST else None
