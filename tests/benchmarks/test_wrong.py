"""A benchmark whose effects are wrong ends, instead of telling how fast that was."""

import importlib
from typing import Any

import pytest

from benchmarks import command, delivery
from ota.models import TaskEvent
from ota.states import TaskStatus
from tests.make import make_task


def figure(right: int) -> delivery.Figure:
    return delivery.Figure(bytes=100, seconds=1, right=right, clients=3, cuts=0)


def test_clients_with_wrong_bytes_end_the_benchmark_of_downloads() -> None:
    assert "at 6 clients" in delivery.result("clients", [(figure(3), figure(3))], "").note
    with pytest.raises(RuntimeError, match="1 of 6 clients have wrong bytes"):
        delivery.result("clients", [(figure(2), figure(3))], "")


def test_a_package_with_another_hash_ends_the_benchmark_of_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")  # which it would set for all tests
    upload = importlib.import_module("benchmarks.upload")
    upload._check(("md5", "sha256"), ("md5", "sha256"))
    with pytest.raises(RuntimeError, match="the bytes came damaged"):
        upload._check(("md5", None), ("md5", "sha256"))


@pytest.mark.django_db
def test_a_command_that_the_broker_did_not_confirm_ends_the_benchmark_of_commands() -> None:
    task = make_task(status=TaskStatus.SENT)

    def confirmed() -> list[Any]:
        rounds = [command.Rates(ours=1, bare=1, shared=1, single=1)]
        return [one.ours for one in command.compared("SQLite", 1, rounds, 0)]

    assert confirmed()[-1] == 1
    TaskEvent.objects.create(task=task, at=task.status_at, kind=TaskEvent.Kind.NOTE)
    with pytest.raises(RuntimeError, match="confirmed 0 of 1 commands"):
        confirmed()
