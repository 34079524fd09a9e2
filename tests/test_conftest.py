"""What all tests share holds what it says: each guard is shown to fail on a test that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("sync.spinlock('zone lock').acquire()", "locks are left held: zone lock"),
        ("sync.mutex('pcp').acquire()", "locks are left held: pcp"),
        (
            "sync.spawn('straggler', lambda: __import__('time').sleep(1))",
            "threads were left behind: straggler",
        ),
        ("sync.spinlock('zone lock')", ""),
    ],
)
def test_a_test_that_leaves_a_lock_or_a_thread_behind_fails(
    pytester: pytest.Pytester, body: str, complaint: str
) -> None:
    text = CONFTEST.read_text(encoding="utf-8")
    pytester.makeconftest(text.replace("LEAVING_S = 5.0", "LEAVING_S = 0.1"))
    pytester.makepyfile(f"def test_it(sync):\n    {body}\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1 if complaint else 0)
    if complaint:
        result.stdout.fnmatch_lines([f"*{complaint}*"])
