"""Prints how `classic`, `modern` and GPT-2 do in transformers' model suites: `python tests/upstream/counts.py`.

Fails if a test of ours fails, if a variant passes fewer tests than GPT-2, or if it skips a test that GPT-2 does not skip.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
SUITES = {"classic": "ClassicTest", "modern": "ModernTest", "GPT-2": "GPT2Test"}
OUTCOMES = ("passed", "failed", "skipped")


class Outcomes:
    """A pytest plugin that keeps the outcome of every test, by test class and name."""

    def __init__(self):
        self.outcomes = {name: {} for name in SUITES.values()}

    def pytest_runtest_logreport(self, report):
        suite, name = report.nodeid.split("::")[-2:]
        tests = self.outcomes[suite]
        # A test has a report for each phase and each subtest: the worst one counts.
        rank = ("passed", "skipped", "failed").index
        tests[name] = max(tests.get(name, "passed"), report.outcome, key=rank)


def main() -> str | None:
    plugin = Outcomes()
    os.chdir(PROJECT)  # so that subprocesses of the tests find the project's packages too
    sys.path.insert(0, str(PROJECT))
    status = pytest.main(
        ["tests/upstream/test_models.py", "-q", "-n0", "-p", "no:cacheprovider", "--no-summary"], plugins=[plugin]
    )
    suites = {name: plugin.outcomes[suite] for name, suite in SUITES.items()}
    print(f"\n{'':10}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    for name, tests in suites.items():
        counts = Counter(tests.values())
        print(f"{name:10}" + "".join(f"{counts[outcome]:>10}" for outcome in OUTCOMES))
    reference = suites["GPT-2"]
    for name in ("classic", "modern"):
        for test, outcome in suites[name].items():
            if outcome != reference[test]:
                print(f"{name} {outcome}, GPT-2 {reference[test]}: {test}")
    if status:
        return f"pytest ended with status {int(status)}"
    passed = {name: Counter(tests.values())["passed"] for name, tests in suites.items()}
    if min(passed.values()) < passed["GPT-2"]:
        return f"fewer tests pass than for GPT-2: {passed}"
    return None


if __name__ == "__main__":
    sys.exit(main())
