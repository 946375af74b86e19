"""Calling management commands as scripts do."""

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command


class Run:
    """Runs commands; ``out`` is what the last one printed on standard output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""

    def __call__(self, *arguments: str) -> int:
        """The exit code."""
        try:
            call_command(*arguments)
        except CommandError as error:
            return error.returncode
        finally:
            self.out = self._capsys.readouterr().out
        return 0

    def answer(self, *arguments: str, code: int = 0) -> Any:
        """The one document that the command prints with ``--json``."""
        assert self(*arguments, "--json") == code
        return json.loads(self.out)


def refusal(*arguments: str) -> tuple[int, str]:
    """The exit code and the message of a call that is refused."""
    with pytest.raises(CommandError) as caught:
        call_command(*arguments)
    return caught.value.returncode, str(caught.value)
