"""A rollout's policy in words, as its page and its report tell it."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from console.counts import count
from ota import waves
from ota.models import Criterion, Offer, Rollout
from ota.moments import moment

SHOWN = 6  # of what a sentence lists


class Term(NamedTuple):
    """One thing that was decided."""

    name: str
    text: str


def of(rollout: Rollout) -> list[Term]:
    """What was decided for a rollout; what makes no difference is left out."""
    number = rollout.wave_set.count()
    found = [
        Term("Target", rollout.target_version or "one for each model"),
        Term("Downgrade", "allowed" if rollout.allow_downgrade else ""),
        Term("Waves", _waves(rollout, number)),
        Term("Next wave", _gates(rollout) if rollout.waves or number > 1 else ""),
        Term("At once", _limits(rollout)),
        Term("Start jitter", _jitter(rollout)),
        Term("Hours", _hours(rollout)),
        Term("Pauses itself", _stops(rollout)),
        Term("Start", moment(rollout.starts_at)),
        Term("Deadline", moment(rollout.deadline_at)),
        Term("Stays open", _stays_open(rollout) if rollout.keeps_open else ""),
    ]
    return [term for term in found if term.text]


def lasted(found: dt.timedelta) -> str:
    """How long something took, such as ``19 s``, ``1 min 5 s`` and ``2 h 10 min``."""
    minutes, seconds = divmod(round(found.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    units = [(hours, "h"), (minutes, "min"), (0 if hours else seconds, "s")]
    return " ".join(f"{number:,} {unit}" for number, unit in units if number) or "0 s"


def _waves(rollout: Rollout, number: int) -> str:
    if not rollout.waves:
        return "the pilot, then all others" if number > 1 else "all at once"
    return "one for each site" if waves.is_by_site(rollout.waves) else rollout.waves


def _gates(rollout: Rollout) -> str:
    parts = [f"{rollout.gate_first} % of the first proven, {rollout.gate} % of later ones"]
    if rollout.soak_minutes:
        parts.append(f"{rollout.soak_minutes:,} min later")
    if rollout.asks_between_waves:
        parts.append("after a click")
    return ", ".join(parts)


def _limits(rollout: Rollout) -> str:
    found = f"{count(rollout.limit_in_flight, 'dock')} at most"
    return f"{found}, {rollout.limit_per_site:,} of a site" if rollout.limit_per_site else found


def _jitter(rollout: Rollout) -> str:
    return f"up to {rollout.jitter_seconds:,} s" if rollout.jitter_seconds else ""


def _hours(rollout: Rollout) -> str:
    if not rollout.windows:
        return "at any time"
    return f"{rollout.windows}, on each site's clock, with {rollout.expected_minutes} min left"


def _stays_open(rollout: Rollout) -> str:
    criteria = rollout.criteria.select_related("model", "organization", "site")
    offers = rollout.offers.select_related("model")
    return joining(list(criteria), list(offers), rollout.deadline_at, rollout.rest_of)


def joining(
    criteria: Sequence[Criterion],
    offers: Sequence[Offer],
    deadline_at: dt.datetime | None,
    rest_of: Rollout | None,
) -> str:
    """Who joins a rollout that stays open, with which version, and until when."""
    who = _few([str(criterion) for criterion in criteria]) or "nobody any more"
    who += f", but not those that {rest_of} has tried" if rest_of else ""
    what = _few([str(offer) for offer in offers])
    until = f"{moment(deadline_at)} or " if deadline_at else ""
    return f"for {who} ({what}), until {until}somebody closes it"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _stops(rollout: Rollout) -> str:
    parts = []
    if rollout.max_failed is not None:
        parts.append(f"above {count(rollout.max_failed, 'failure')}")
    if rollout.max_failed_percent is not None:
        share, least = rollout.max_failed_percent, rollout.failed_after
        parts.append(f"above {share} % failures of at least {least:,} finished")
    return ", or ".join(parts) or "never"
