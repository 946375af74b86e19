"""Who wants to hear of what: the people that may see it, and what they have chosen."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from django.contrib.auth.models import User

from ota.models import News, Preference
from ota.models.notices import Kind, Whose

_BACKEND = "django.contrib.auth.backends.ModelBackend"

Choice = Mapping[str, str]

# Of those who have chosen nothing.
CONSOLE: Choice = {
    Kind.STARTED: Whose.MINE,
    Kind.STOPPED: Whose.ALL,
    Kind.STANDSTILL: Whose.MINE,
    Kind.NEEDS_APPROVAL: Whose.ALL,
    Kind.WAVE_WAITING: Whose.MINE,
    Kind.FINISHED: Whose.MINE,
    Kind.ON_SITE: Whose.ALL,
    Kind.DAMAGED: Whose.ALL,
}
EMAIL: Choice = {
    Kind.STARTED: Whose.NONE,
    Kind.STOPPED: Whose.MINE,
    Kind.STANDSTILL: Whose.MINE,
    Kind.NEEDS_APPROVAL: Whose.ALL,
    Kind.WAVE_WAITING: Whose.MINE,
    Kind.FINISHED: Whose.MINE,
    Kind.ON_SITE: Whose.MINE,
    Kind.DAMAGED: Whose.NONE,
}
# Who else than the author may hear of it; what is not named, whoever may view rollouts.
_AUDIENCE = {
    Kind.NEEDS_APPROVAL: "ota.approve_rollout",
    Kind.DAMAGED: "ota.view_firmwarepackage",
}
_VIEW = "ota.view_rollout"


class Wanted(NamedTuple):
    """How a person gets some news."""

    user: User
    in_console: bool
    by_email: bool


class People:
    """Everybody in the console with their choices; a fixed number of queries for any number of news."""

    def __init__(self) -> None:
        self._by_code = {code: _allowed(code) for code in (_VIEW, *_AUDIENCE.values())}
        self._preferences: defaultdict[int, dict[int | None, Preference]] = defaultdict(dict)
        for preference in Preference.objects.all():
            self._preferences[preference.user_id][preference.organization_id] = preference

    def who_want(self, news: News, organizations: Collection[int]) -> Iterator[Wanted]:
        """Those who are told of it; ``organizations`` are those whose docks it is about."""
        author = news.rollout.created_by_id if news.rollout else None
        allowed = self._by_code[_AUDIENCE.get(Kind(news.kind), _VIEW)]
        mine = self._by_code[_VIEW].get(author or 0)
        for user in (allowed | ({mine.pk: mine} if mine else {})).values():
            is_mine = user.pk == author
            chosen = list(self._choices(user, organizations))
            wanted = Wanted(
                user,
                any(_wants(console, news.kind, is_mine) for console, _ in chosen),
                any(_wants(email, news.kind, is_mine) for _, email in chosen),
            )
            if wanted.in_console or wanted.by_email:
                yield wanted

    def _choices(
        self, user: User, organizations: Collection[int]
    ) -> Iterator[tuple[Choice, Choice]]:
        """What holds for each of the organizations, or in general where there is none."""
        mine = self._preferences.get(user.pk, {})
        whole: list[int | None] = [None]
        for organization in organizations or whole:
            preference = mine.get(organization) or mine.get(None)
            # A kind of news that there was not when they chose is as for those who chose nothing.
            console, email = (preference.console, preference.email) if preference else ({}, {})
            yield {**CONSOLE, **console}, {**EMAIL, **email}


def _allowed(code: str) -> dict[int, User]:
    found = User.objects.with_perm(code, backend=_BACKEND).filter(is_staff=True)
    return {user.pk: user for user in found}


def _wants(choice: Choice, kind: str, is_mine: bool) -> bool:
    whose = choice.get(kind, Whose.NONE)
    return whose == Whose.ALL or (whose == Whose.MINE and is_mine)
