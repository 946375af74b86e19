"""The report of a rollout: a page that prints well, and a table for other programs."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from console.paging import KeyPaginator
from ota import outcomes, rows, status, terms
from ota.models import Rollout
from ota.rows import PARTS

PAGE = 100  # devices


def page(rollout: Rollout, wanted: str) -> dict[str, Any]:
    """What the page shows; a fixed number of queries."""
    tally = status.tally(rollout)
    among = outcomes.extent(rollout)
    pages = KeyPaginator(outcomes.targets(rollout, among), PAGE)
    pages.count = among.devices  # known already
    found = pages.get_page(wanted)
    took = rollout.finished_at - rollout.created_at if rollout.finished_at else None
    return {
        "rollout": rollout,
        "author": status.authors([rollout])[rollout.pk],
        "terms": terms.of(rollout),
        "summary": rows.summary(tally.current, tally.retried),
        "parts": [(name, rows.total(tally.current, statuses)) for _, name, statuses in PARTS],
        "took": outcomes.whole(took) if took else None,
        "durations": outcomes.durations(rollout),
        "failures": outcomes.failures(rollout),
        "waves": rows.of_waves(rollout),
        "events": rollout.events.select_related("actor"),
        "page": found,
        "outcomes": [outcomes.of(target) for target in found],
    }


def as_csv(request: HttpRequest, rollout: Rollout) -> StreamingHttpResponse:
    """All devices, sent while they are read."""
    return download(request, outcomes.as_csv(rollout), f"rollout-{rollout.pk}.csv")


def download(request: HttpRequest, pieces: Iterator[str], file_name: str) -> StreamingHttpResponse:
    """A table as a file, sent while it is made."""
    is_async = isinstance(request, ASGIRequest)
    name = f'attachment; filename="{file_name}"'
    return StreamingHttpResponse(
        one_after_the_other(pieces) if is_async else pieces,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": name},
    )


async def one_after_the_other(pieces: Iterator[str]) -> AsyncIterator[str]:
    """For a server that is asynchronous: each is read in a thread when the one before has gone out."""
    read = sync_to_async(lambda: next(pieces, None))
    while (piece := await read()) is not None:
        yield piece
