"""In whose name a command acts."""

from django.contrib.auth.models import User
from django.core.management.base import CommandParser

from console.terminal import visible, wrong_call
from ota.models.rollouts import FROM_THE_TERMINAL

UPGRADE = "ota.upgrade_devices"
APPROVE = "ota.approve_rollout"


def add_user(parser: CommandParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--user", metavar="NAME", required=required, help="who does it, as the history tells"
    )


def remark_of(user: User | None) -> str:
    """What the history says beside a deed that is in nobody's name."""
    return "" if user else FROM_THE_TERMINAL


def person(name: str | None, permission: str = UPGRADE) -> User | None:
    """Who acts; None if nobody was named. Who may not do it ends the command as a wrong call."""
    if name is None:
        return None
    user = User.objects.filter(username=name).first()
    if user is None:
        wrong_call(f"Unknown user: {visible(name)}")
    if not user.is_active:
        wrong_call(f"User {name} is not active.")
    if not user.has_perm(permission):
        wrong_call(f"User {name} lacks the permission {permission}.")
    return user
