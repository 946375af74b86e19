"""What the bell says."""

from ota.models import Notice

COUNTED = 99  # from there on it says so many and more


def unread(user: int) -> int:
    """How many notices of a person are new; counted to one more than is shown."""
    new = Notice.objects.filter(user=user, is_shown=True, read_at=None).order_by()
    return new[: COUNTED + 1].count()
