"""The pytest plugin, as a project of its own uses it: what passes, what fails, and what it says of a reporter."""

from __future__ import annotations

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

USERS_TESTS = """
import pytest

@pytest.mark.explore(executions=50)
def test_sound(kit):
    kit.build(("Normal", 64))
    kit.start()
    kit.spawn("free", lambda: kit.free(kit.alloc(3), 3))
    kit.rest(all_reported=False)

@pytest.mark.explore(executions=200)
def test_broken(kit):
    event = kit.sync.event("done")
    seen = []
    kit.sync.spawn("reader", lambda: seen.append(event.is_set()))
    kit.sync.spawn("writer", event.set)
    kit.sync.await_idle()
    assert seen == [True], "the reader came first"
"""

REPORTERS = """
from workers import Discard

class Careful:
    def report(self, zone, batch):
        pass

class Careless:
    def report(self, zone, batch):
        zone.rmqueue_buddy(0, 1)          # never freed, and asked for in the middle of a report

class RaisesOnce(Careful):
    calls = 0
    def report(self, zone, batch):
        self.calls += 1
        if self.calls == 1:
            raise OSError("not yet")

class RaisesEveryThird(Careful):
    calls = 0
    def report(self, zone, batch):
        self.calls += 1
        if self.calls % 3 == 0:
            raise OSError("every third")

class RaisesAndIsCareless(RaisesOnce):
    def report(self, zone, batch):
        super().report(zone, batch)
        zone.rmqueue_buddy(0, 1)

class RaisesAlways:
    def report(self, zone, batch):
        raise OSError("there is no device")

class Exits:
    def report(self, zone, batch):
        raise SystemExit(3)

class Coroutine:
    async def report(self, zone, batch):
        pass

class HasNoReport:
    pass

class NeedsArguments(Careful):
    def __init__(self, path):
        self.path = path

class CannotBeMade(Careful):
    def __init__(self):
        raise OSError("there is no socket")

class IsStarted:
    closed = 0
    def start(self, memory):
        self.memory = memory
    def report(self, zone, batch):
        for block in batch:
            self.memory.view(block.pfn, block.order)[:1] = b"x"
    def close(self):
        IsStarted.closed += 1

AN_INSTANCE = Careful()

def test_it(explore_reporter):
    explore_reporter({}, executions=5)
"""


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Run the tests in a process of their own, with the plugin named unless it is installed."""
    plugin = (
        []
        if pytester._request.config.pluginmanager.hasplugin("pagealloc")
        else ["-p", "stress.pytest_plugin"]
    )
    return pytester.runpytest_subprocess("-q", *plugin, *words)


def test_users_search_from_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USERS_TESTS)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "the reader came first" in text
    assert "--explore-replay" in text


@pytest.mark.parametrize("reporter", ["Careful", "Discard", "RaisesOnce", "RaisesEveryThird", "IsStarted"])
def test_a_batch_that_a_reporter_refuses_is_no_violation(pytester: pytest.Pytester, reporter: str) -> None:
    pytester.makepyfile(REPORTERS.replace("{}", reporter))
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("reporter", "told"),
    [
        ("Careless", "violated "),
        ("RaisesAndIsCareless", "the first: OSError: not yet"),
        ("RaisesAndIsCareless", "violated "),
        (
            "RaisesAlways",
            "RaisesAlways raised in every one of * calls; the first: OSError: there is no device",
        ),
        ("Exits", "Exits raised in every one of * calls; the first: SystemExit: 3"),
        ("Coroutine", "a coroutine function, which nobody awaits"),
        ("HasNoReport", "HasNoReport has no method report(zone, batch)"),
        ("NeedsArguments", "NeedsArguments cannot be made without arguments: TypeError: *'path'"),
        ("CannotBeMade", "CannotBeMade cannot be made without arguments: OSError: there is no socket"),
        ("AN_INSTANCE", "is no class, but has to be made anew for each execution"),
    ],
)
def test_what_is_wrong_with_a_reporter_is_said_in_words(
    pytester: pytest.Pytester, reporter: str, told: str
) -> None:
    pytester.makepyfile(REPORTERS.replace("{}", reporter))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{told}*"])
    result.stdout.no_fnmatch_line("*During handling*")


def test_without_greenlet_the_missing_extra_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nsys.modules['greenlet'] = None")
    pytester.makepyfile(REPORTERS.replace("{}", "Careful") + USERS_TESTS)
    result = run(pytester)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["schedule search needs greenlet: pip install 'pagealloc[search]'"] * 3)
