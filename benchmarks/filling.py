"""A console's database filled within minutes: statements that make their rows themselves.

The rows are numbered and everything about them follows from the number, so two sizes differ in nothing but size.
The database is empty but for its migrations, and ``make`` is called once.
"""

from typing import Any, NamedTuple

from django.core.management.color import no_style
from django.db import connection, models
from django.utils import timezone

from benchmarks import ground  # noqa: F401 (sets Django up)
from fleet import versions
from fleet.models import Device, DeviceModel, Organization, Site
from mqtt_bridge.models import FailedMessage
from ota.models import (
    Download,
    FirmwarePackage,
    ForeignUpgrade,
    Rollout,
    RolloutEvent,
    TaskEvent,
    UpgradeTarget,
    UpgradeTask,
    Wave,
)
from tests.make import make_listening, make_model

ROLLOUTS = 100
RUNNING = 2  # of them, the newest
WAVES = 5  # of each
VERSIONS = [f"10.{minor:02d}.{patch:02d}01" for minor in range(1, 6) for patch in range(1, 7)]
DOCKS = ("3-2-0", "3-3-0")
AIRCRAFT = ("0-91-1", "0-100-1")


class Amounts(NamedTuple):
    """How many rows; half of the devices are docks, the others are their aircraft."""

    devices: int
    tasks: int
    events: int  # of each task

    @property
    def docks(self) -> int:
        return self.devices // 2

    @property
    def organizations(self) -> int:
        return max(2, self.devices // 2000)

    @property
    def sites(self) -> int:
        return max(2, self.devices // 100)

    @property
    def tasks_of_a_rollout(self) -> int:
        return self.tasks // ROLLOUTS


def make(amounts: Amounts) -> None:
    """Fills the database; a dock has an open task at most, as the newest of its tasks."""
    make_listening()
    _trust()
    _places(amounts)
    _devices(amounts)
    _packages()
    _rollouts(amounts)
    _tasks(amounts)
    _count_ended()
    _events(amounts)
    _others(amounts)
    _go_on_behind()


def _trust() -> None:
    """What refers to what is right here; looking each up takes longer than all the rest."""
    is_postgres = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute(
            "SET session_replication_role = replica" if is_postgres else "PRAGMA foreign_keys = OFF"
        )


def _places(amounts: Amounts) -> None:
    names = {"identifier": "'org-' || i", "name": "'Organization ' || i", "binding_code": "'X'"}
    _insert(Organization, amounts.organizations, names | {"created_at": _ago("i")})
    sites = {"organization": f"1 + i %% {amounts.organizations}", "name": "'Site ' || i"}
    _insert(Site, amounts.sites, sites | {"time_zone": "'Europe/Zurich'"})


def _devices(amounts: Amounts) -> None:
    """The docks first; the aircraft of dock ``i`` has the number ``docks + i``."""
    docks = amounts.docks
    kinds = [[make_model(key).pk for key in keys] for keys in (DOCKS, AIRCRAFT)]
    for of, offset, head in ((kinds[0], 0, "7CTDM"), (kinds[1], docks, "1581F")):
        index = "(i * 7919) %% 30"
        _insert(
            Device,
            docks,
            {
                # Not in the order of the keys, as serial numbers are not.
                "sn": f"'{head}' || (100000000 + (i * 48271) %% 99999989)",
                "callsign": "CASE WHEN i %% 3 = 0 THEN 'Dock north ' || i ELSE '' END",
                "model": f"CASE WHEN i %% 4 = 0 THEN {of[1]} ELSE {of[0]} END",
                "organization": f"CASE WHEN i %% 10 = 3 THEN NULL ELSE 1 + i %% {amounts.organizations} END",
                "site": f"1 + i %% {amounts.sites}",
                "gateway": "i" if offset else "NULL",
                "created_at": _ago("i"),
                "bound_at": f"CASE WHEN i %% 10 = 3 THEN NULL ELSE {_ago('i')} END",
                "presence": "CASE WHEN i %% 10 = 0 THEN 'offline' ELSE 'online' END",
                "last_seen_at": _ago("i %% 1000"),
                "online_since": _ago("100000"),
                "firmware_version": _case(index, [f"'{text}'" for text in VERSIONS]),
                "firmware_number": _case(index, [str(versions.number(v)) for v in VERSIONS]),
                "firmware_seen_at": _ago("60"),
                "firmware_reported_at": _ago("60"),
                "compatible_status": "CASE WHEN i %% 50 = 0 THEN 1 ELSE 0 END",
                "mode_code": "0",
                "drone_in_dock": "1",
                "battery_percent": "90",
                "changed_at": _ago("100"),
            },
            offset=offset,
        )


def _packages() -> None:
    """A package of each version for all models; the newest five are available."""
    for number, version in enumerate(VERSIONS, 1):
        package = FirmwarePackage.objects.create(
            pk=number,
            file=f"firmware/{number}.zip",
            file_name=f"M3D_V{version}.zip",
            version=version,
            size=400_000_000,
            md5=f"{number:032x}",
            sha256=f"{number:064x}",
            state="available" if number > len(VERSIONS) - 5 else "withdrawn",
            verified_at=timezone.now(),
        )
        package.models.set(DeviceModel.objects.filter(key__in=(*DOCKS, *AIRCRAFT)))


def _rollouts(amounts: Amounts) -> None:
    is_over = f"i <= {ROLLOUTS - RUNNING}"
    policy = Rollout(limit_in_flight=100)
    for number in range(1, ROLLOUTS + 1):
        policy.pk, policy.name = number, f"Upgrade {number}"
        policy.save(force_insert=True)
    _update(
        Rollout,
        is_over.replace("i ", "id "),
        {"status": "'finished'", "finished_at": _ago("(100 - id) * 600000")},
    )
    _insert(
        Wave,
        ROLLOUTS * WAVES,
        {
            "rollout": f"1 + (i - 1) / {WAVES}",
            "number": f"1 + (i - 1) %% {WAVES}",
            "gate": "90",
            "opened_at": _ago("1000"),
        },
    )
    _insert(
        RolloutEvent,
        ROLLOUTS * 20,
        {
            "rollout": f"1 + i %% {ROLLOUTS}",
            "at": _ago("i"),
            "kind": "'changed'",
            "told_at": _ago("i"),
        },
    )


def _tasks(amounts: Amounts) -> None:
    """Task ``i`` goes to dock ``i`` modulo the docks; only those of the newest rollouts may be open."""
    is_running = f"i > {amounts.tasks - RUNNING * amounts.tasks_of_a_rollout}"
    ended = _case("i %% 20", ["'failed'", "'timeout'", "'canceled'", *["'ok'"] * 17])
    running = _case("i %% 10", ["'ok'", "'ok'", "'ok'", "'ok'", "'pending'"] + ["'pending'"] * 5)
    running = f"CASE WHEN i %% 100 = 7 THEN 'in_progress' WHEN i %% 100 = 8 THEN 'failed' ELSE {running} END"
    status = f"CASE WHEN {is_running} THEN {running} ELSE {ended} END"
    age = f"({amounts.tasks} - i) * {60_000_000 // amounts.tasks}"  # two years in all
    is_over = f"{status} IN ('ok', 'failed', 'timeout', 'canceled')"
    failed = f"{status} IN ('failed', 'timeout')"
    within = amounts.tasks_of_a_rollout
    _insert(
        UpgradeTask,
        amounts.tasks,
        {
            "rollout": f"1 + (i - 1) / {within}",
            "wave": f"1 + {WAVES} * ((i - 1) / {within}) + ((i - 1) %% {within}) * {WAVES} / {within}",
            "gateway": f"1 + i %% {amounts.docks}",
            "bid": "'00000000-0000-4000-8000-' || CAST(100000000000 + i AS varchar)",
            "status": status,
            "status_at": _ago(age),
            "attempt": f"CASE WHEN {status} = 'pending' THEN 0 ELSE 1 END",
            "waits_for": f"""CASE WHEN {status} = 'pending' THEN {_json('[{"code": "offline", "text": "the dock is offline"}]')} ELSE {_json("[]")} END""",
            "checked_at": _ago("10"),
            "due_at": f"CASE WHEN {status} = 'pending' THEN {_ago('0 - 600')} ELSE NULL END",
            "sent_at": f"CASE WHEN {status} = 'pending' THEN NULL ELSE {_ago(age)} END",
            "replied_at": f"CASE WHEN {status} = 'pending' THEN NULL ELSE {_ago(age)} END",
            "progress_seen_at": f"CASE WHEN {status} = 'in_progress' THEN {_ago('5')} ELSE NULL END",
            "finished_at": f"CASE WHEN {is_over} THEN {_ago(age)} ELSE NULL END",
            "resolved_at": f"CASE WHEN {failed} AND i %% 60 <> 0 THEN {_ago(age)} ELSE NULL END",
            "percent": f"CASE WHEN {status} = 'pending' THEN NULL ELSE 100 END",
            "result": f"CASE WHEN {failed} THEN 312014 ELSE NULL END",
        },
    )
    # A task's targets lie side by side, as a launch writes them: the dock's and its aircraft's.
    side = f"CASE WHEN i %% 2 = 0 THEN {amounts.docks} ELSE 0 END"
    task = "(1 + (i - 1) / 2)"
    _insert(
        UpgradeTarget,
        2 * amounts.tasks,
        {
            "task": task,
            "device": f"1 + {side} + {task} %% {amounts.docks}",
            "package": f"1 + {task} %% 30",
            "upgrade_type": "'regular'",
            "from_version": "'10.01.0101'",
            "to_version": "'10.05.0601'",
            "confirmed_at": f"(SELECT finished_at FROM ota_upgradetask WHERE id = {task} AND status = 'ok')",  # noqa: S608
        },
    )
    _insert(
        Download,
        amounts.tasks,
        {
            "task": "i",
            "package": "1 + i %% 30",
            "bytes_served": "400000000",
            "first_at": _ago(age),
            "last_at": _ago(age),
        },
    )


def _count_ended() -> None:
    for rollout in Rollout.objects.exclude(finished_at=None):
        counts = rollout.tasks.shares()
        Rollout.objects.filter(pk=rollout.pk).update(final_counts=counts)


def _events(amounts: Amounts) -> None:
    """Each task's, written one after the other; the first task has a thousand more."""
    kinds = _case(
        f"i / {amounts.tasks}",
        ["'status'", "'command'", "'reply'"] + ["'progress'"] * (amounts.events - 3),
    )
    _insert(
        TaskEvent,
        amounts.tasks * amounts.events,
        {
            "task": f"1 + i %% {amounts.tasks}",
            "at": _ago(f"{amounts.tasks * amounts.events} - i"),
            "kind": kinds,
            "key": f"CASE WHEN i %% 2 = 0 THEN {_uuid('i')} ELSE NULL END",
            "percent": "i %% 100",
            "step": "'download_firmware'",
        },
    )
    _insert(
        TaskEvent,
        1000,
        {"task": "1", "at": _ago("i"), "kind": "'progress'", "percent": "i %% 100"},
        offset=amounts.tasks * amounts.events,
    )


def _others(amounts: Amounts) -> None:
    _insert(
        FailedMessage,
        1000,
        {"at": _ago("i"), "topic": "'thing/product/' || i", "reason": "'no'", "payload": "'{}'"},
    )
    _insert(
        ForeignUpgrade,
        max(10, amounts.devices // 100),
        {
            "gateway": f"1 + i %% {amounts.docks}",
            "first_seen_at": _ago("i"),
            "last_seen_at": _ago("i"),
            "finished_at": f"CASE WHEN i %% 10 = 0 THEN NULL ELSE {_ago('i')} END",
        },
    )


def _go_on_behind() -> None:
    """New rows get keys behind the ones that were given here."""
    models_ = [*Device._meta.apps.get_models()]
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), models_):
            cursor.execute(statement)


def settle() -> None:
    """As a database is that has been running for a while: swept, and its planner knows the rows."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


# SQL for both databases


def _insert(model: type[models.Model], rows: int, given: dict[str, str], offset: int = 0) -> None:
    """Rows numbered by ``i`` from 1 on, with the keys ``offset + i``; what is not given has its default."""
    columns: dict[str, str] = {"id": f"{offset} + i"}
    values: list[Any] = [rows]
    for field in model._meta.local_concrete_fields:
        if field.primary_key or (field.null and field.name not in given):
            continue
        if field.name in given:
            columns[str(field.column)] = given[field.name]
        else:
            columns[str(field.column)] = "%s"
            values.append(field.get_db_prep_save(field.get_default(), connection))
    names = ", ".join(map(connection.ops.quote_name, columns))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({names}) "  # noqa: S608
            "WITH RECURSIVE n(i) AS (SELECT CAST(1 AS bigint) UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
            f"SELECT {', '.join(columns.values())} FROM n",
            values,
        )


def _update(model: type[models.Model], condition: str, given: dict[str, str]) -> None:
    changes = ", ".join(f"{name} = {value}" for name, value in given.items())
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {model._meta.db_table} SET {changes} WHERE {condition}", [])  # noqa: S608


def _ago(seconds: str) -> str:
    """A moment so many seconds ago; the number is SQL."""
    if connection.vendor == "postgresql":
        return f"now() - ({seconds}) * interval '1 second'"
    return f"datetime('now', (0 - ({seconds})) || ' seconds')"


def _uuid(number: str) -> str:
    text = f"'00000000000040008000' || CAST(100000000000 + {number} AS varchar)"
    return f"CAST({text} AS uuid)" if connection.vendor == "postgresql" else text


def _json(text: str) -> str:
    return f"'{text}'::jsonb" if connection.vendor == "postgresql" else f"'{text}'"


def _case(index: str, values: list[str]) -> str:
    parts = " ".join(f"WHEN {number} THEN {value}" for number, value in enumerate(values[:-1]))
    return f"CASE {index} {parts} ELSE {values[-1]} END"
