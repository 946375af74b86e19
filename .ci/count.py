"""Writes `N passed, N failed, N skipped` from pytest's JUnit reports, whose paths are the arguments."""

import sys
from pathlib import Path
from xml.etree import ElementTree


def outcome(case: ElementTree.Element) -> str:
    """What became of one test; an error around it (a fixture, the collection) is a failure."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def counts(report: Path) -> dict[str, int]:
    """Tests by outcome. A test that fails and then errs while it is cleaned up is one failure."""
    outcomes: dict[tuple[str | None, str | None], str] = {}
    if not report.stat().st_size:
        return {"passed": 0, "failed": 1, "skipped": 0}  # pytest broke down before it could report
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (written by our own run)
        name = (case.get("classname"), case.get("name"))
        if outcomes.get(name) != "failed":
            outcomes[name] = outcome(case)
    found = list(outcomes.values())
    return {word: found.count(word) for word in ("passed", "failed", "skipped")}


if __name__ == "__main__":
    reports = [counts(Path(path)) for path in sys.argv[1:]]
    result = {word: sum(report[word] for report in reports) for word in reports[0]}
    sys.stdout.write(", ".join(f"{number} {word}" for word, number in result.items()) + "\n")
    sys.exit(result["failed"] > 0 or not all(sum(report.values()) for report in reports))
