"""The command lines of our processes on one machine, as the Procfile has them for others."""

import sys

from demo import ports


def web(port: int, application: str = "config.asgi:application") -> list[str]:
    command = [sys.executable, "-m", "daphne", "-b", ports.HOST, "-p", str(port)]
    return [*command, "--websocket_connect_timeout", "30", "-v", "0", application]


def firmware(port: int) -> list[str]:
    # A link opens the package to whoever has it: it belongs in no log.
    command = [sys.executable, "-m", "uvicorn", "config.firmware:application", "--no-access-log"]
    return [*command, "--host", ports.HOST, "--port", str(port)]


def worker() -> list[str]:
    return [*_celery("worker"), "--concurrency", "2"]


def beat() -> list[str]:
    return _celery("beat")


def bridge() -> list[str]:
    return _manage("mqtt_bridge")


def simulator(*arguments: str) -> list[str]:
    """Simulated docks; ``arguments`` are those of ``simulate_docks``."""
    return _manage("simulate_docks", *arguments)


def _manage(*words: str) -> list[str]:
    return [sys.executable, "manage.py", *words]


def _celery(role: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "config", role, "--loglevel", "INFO"]
