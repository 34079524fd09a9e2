"""pytest under the controlled world: a test's body is executed schedule by schedule.

    @pytest.mark.explore(executions=500)
    def test_nothing_is_lost(kit):
        kit.build(("Normal", 64))
        kit.start()
        kit.spawn("free", lambda: kit.free(kit.alloc(3), 3))
        kit.rest()

    def test_my_reporter(explore_reporter):
        explore_reporter(MyReporter)

A test with the marker takes `kit` (see `stress.search.kit`); marker arguments: `executions` (500), `strategy`
("portfolio"), `preemptions` (2), `preset` ("v6.12"), `seed` (1). A failing test prints the story and the
command that replays it: `pytest NODEID --explore-replay FILE`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stress.search.explore import Failure, Program
    from workers.page_reporting import Reporter

MARKER = "explore(executions=500, strategy='portfolio', preemptions=2, preset='v6.12', seed=1)"
DEFAULTS: dict[str, Any] = {
    "executions": 500,
    "strategy": "portfolio",
    "preemptions": 2,
    "preset": "v6.12",
    "seed": 1,
}

ENOUGH_CALLS = 100  # to say that a reporter refuses whatever it is given

ExploreReporter = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pagealloc")
    group.addoption(
        "--explore-replay", metavar="FILE", help="execute the schedule in FILE instead of searching"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: run the test's body under many schedules")


@pytest.fixture
def kit() -> None:
    """Stand for the machine of one execution; a test marked `explore` gets a fresh one each time."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Search the schedules of a marked test instead of calling it once."""
    marker = pyfuncitem.get_closest_marker("explore")
    if marker is None:
        return None
    unknown = set(marker.kwargs) - set(DEFAULTS)
    if marker.args or unknown:
        raise pytest.UsageError(f"{pyfuncitem.nodeid}: the marker is {MARKER}")
    arguments = {
        name: pyfuncitem.funcargs[name]
        for name in pyfuncitem._fixtureinfo.argnames  # noqa: SLF001 - no public way
    }
    if "kit" not in arguments:
        raise pytest.UsageError(f"{pyfuncitem.nodeid}: a test marked explore takes the fixture `kit`")
    function = pyfuncitem.obj

    _check_extra()
    from pagealloc.revision import PRESETS  # noqa: PLC0415 - a test run without the marker needs none of this
    from stress.search.explore import Program  # noqa: PLC0415

    chosen = {**DEFAULTS, **marker.kwargs}
    subject = Program(
        pyfuncitem.nodeid, lambda kit: function(**{**arguments, "kit": kit}), PRESETS[chosen["preset"]]
    )
    _search(pyfuncitem.config, subject, chosen, replayable=True)
    return True


@pytest.fixture
def explore_reporter(request: pytest.FixtureRequest) -> ExploreReporter:
    """Put a reporter of yours through all scenarios and all invariants: `explore_reporter(MyReporter)`.

    It is made anew, without arguments, for each execution, and is called while the batch is in flight; the zones
    have RAM. It may raise: a batch that it refuses is no violation, unless it refuses every one. `executions` is
    for each scenario.
    """

    def explore(
        reporter: Callable[[], Reporter], *, executions: int = 200, preset: str = "v6.12", seed: int = 1
    ) -> None:
        __tracebackhide__ = True
        _check_extra()
        from stress.search.explore import program  # noqa: PLC0415
        from stress.search.scenarios import SCENARIOS  # noqa: PLC0415
        from stress.search.trial import Trial  # noqa: PLC0415
        from workers.errors import ReporterError  # noqa: PLC0415

        chosen = {**DEFAULTS, "executions": executions, "preset": preset, "seed": seed}
        trial = Trial(reporter)
        unusable = ""
        try:
            trial()
            for scenario in SCENARIOS:
                _search(request.config, program(scenario, preset, trial), chosen, replayable=False)
                if trial.calls >= ENOUGH_CALLS and trial.refuses_everything():
                    break
        except ReporterError as error:
            unusable = str(error)
        if unusable or trial.refuses_everything():
            pytest.fail(unusable or trial.describe(), pytrace=False)

    return explore


def _check_extra() -> None:
    """Fail the test with what to install when the search cannot be imported."""
    if find_spec("greenlet") is None:
        pytest.fail("schedule search needs greenlet: pip install 'pagealloc[search]'", pytrace=False)


def _search(config: pytest.Config, subject: Program, chosen: dict[str, Any], *, replayable: bool) -> None:
    from stress.controlled.strategy import make_strategy  # noqa: PLC0415
    from stress.search import replay  # noqa: PLC0415
    from stress.search.explore import explore  # noqa: PLC0415

    file = config.getoption("--explore-replay")
    if file is not None and replayable:
        failure: Failure | None = replay.load(Path(file), known_scenario=False)
    else:
        strategy = make_strategy(
            chosen["strategy"], chosen["seed"], chosen["executions"], chosen["preemptions"]
        )
        failure = explore(subject, strategy, chosen["executions"]).failure
    if failure is not None:
        pytest.fail(_story(config, subject, failure, replayable=replayable), pytrace=False)


def _story(config: pytest.Config, subject: Program, failure: Failure, *, replayable: bool) -> str:
    from rich.console import Console  # noqa: PLC0415

    from stress.search import replay  # noqa: PLC0415
    from stress.search.story import tell_again  # noqa: PLC0415

    text = io.StringIO()
    trial = subject.reporter
    if trial is not None and trial.refused:
        text.write(f"{trial.describe()}\n\n")
    console = Console(file=text, width=110)
    tell_again(console, failure, f"{subject.name}, preset {failure.preset}", subject)
    if replayable:
        cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
        folder = Path(cache.mkdir("explore")) if cache is not None else Path()
        file = folder / f"{hashlib.sha256(subject.name.encode()).hexdigest()[:12]}.json"
        replay.save(file, failure)
        text.write(f"\nagain with: pytest '{subject.name}' --explore-replay {file}\n")
    return text.getvalue()
