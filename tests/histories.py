"""Whether what a history tells adds up to how its task stands."""

from collections import Counter
from collections.abc import Iterable

from ota import states
from ota.models import TaskEvent, UpgradeTask


class History:
    """Replays lines in the order in which they were written: statuses and commands by task."""

    def __init__(self) -> None:
        self.status: dict[int, str] = {}
        self.commands: Counter[int] = Counter()

    def add(self, event: TaskEvent) -> None:
        """Takes the next line; each status has to follow from the one before."""
        pk = event.task_id
        if event.kind == TaskEvent.Kind.COMMAND:
            self.commands[pk] += 1
        if event.kind != TaskEvent.Kind.STATUS:
            return
        assert event.from_status == self.status.get(pk, "")
        assert event.from_status not in states.TERMINAL
        self.status[pk] = event.to_status
        self.commands[pk] -= event.text.startswith("not sent: ")

    def extend(self, events: Iterable[TaskEvent]) -> None:
        for event in events:
            self.add(event)

    def assert_adds_up(self) -> None:
        """Each task has the status and the number of attempts that its history leads to."""
        assert self.status == dict(UpgradeTask.objects.values_list("pk", "status"))
        sent = UpgradeTask.objects.filter(attempt__gt=0).values_list("pk", "attempt")
        assert dict(sent) == {pk: count for pk, count in self.commands.items() if count}
