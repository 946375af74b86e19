"""Progress of an upgrade in the three ways in which docks tell it. DJI Cloud API: ota_progress."""

from dataclasses import dataclass

from simulator import wire
from simulator.faults import Step
from simulator.specs import Dialect

_NUMBERS = {"download": 1, "upgrade": 2}
TERMINAL = frozenset({"ok", "failed"})


@dataclass(frozen=True)
class Report:
    """One progress: `percent` 0 to 100 of the step, `rate` in bytes per second, `result` a device code."""

    status: str
    percent: int
    step: Step | None = None
    result: int = 0
    rate: int | None = None

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


def needs_reply(report: Report, dialect: Dialect) -> int | None:
    """Return `need_reply` of an event: None when the dialect leaves it out."""
    if dialect == "v115":
        return None
    return 1 if dialect == "sdk" else int(report.is_terminal)


def event(report: Report, dialect: Dialect, gateway: str, *, tid: str, bid: str) -> bytes:
    """Return the event on topic `thing/product/{gateway}/events`."""
    message: dict[str, object] = {
        "tid": tid,
        "bid": bid,
        "timestamp": wire.now(),
        "gateway": gateway,
        "method": "ota_progress",
        "data": {"result": report.result, "output": _output(report, dialect)},
    }
    reply = needs_reply(report, dialect)
    if reply is not None:
        message["need_reply"] = reply
    return wire.encode(message)


def _output(report: Report, dialect: Dialect) -> dict[str, object]:
    output: dict[str, object] = {
        "status": report.status,
        "progress": {"percent": report.percent} | _step(report.step, dialect),
    }
    if dialect == "sdk" and report.rate is not None:
        output["ext"] = {"rate": report.rate}
    return output


def _step(step: Step | None, dialect: Dialect) -> dict[str, object]:
    if step is None:
        return {}
    match dialect:
        case "docs":
            return {"step_key": f"{step}_firmware"}
        case "v115":
            return {"current_step": f"{step}_firmware"}
        case "sdk":
            return {"current_step": _NUMBERS[step]}
