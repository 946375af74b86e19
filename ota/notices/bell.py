"""What the bell says."""

from ota.models import Notice

COUNTED = 99  # from there on it says so many and more


def unread(user: int) -> str:
    """How many notices of a person are new, as the bell shows it; empty if none is."""
    new = Notice.objects.filter(user=user, is_shown=True, read_at=None).order_by()
    number = new[: COUNTED + 1].count()
    if number > COUNTED:
        return f"{COUNTED}+"
    return str(number or "")
