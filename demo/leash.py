"""Runs a command that ends when the process that started it ends, however that one ended.

``python -m demo.leash PARENT COMMAND...``: on Linux the kernel sends SIGTERM to the command when the
process PARENT is gone. Elsewhere the command simply runs. It replaces this process, so its id stays.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def hold(parent: int) -> None:
    """Asks the kernel for SIGTERM at the parent's end; ends at once where that has happened already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def command(words: list[str]) -> list[str]:
    """The words of a command line that runs ``words`` on this process's leash."""
    return [sys.executable, "-m", "demo.leash", str(os.getpid()), *words]


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 (the caller's own command, no shell)
