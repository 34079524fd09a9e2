"""A row about the lab: how many seconds of a recorded guest it runs in one."""

from __future__ import annotations

from stress.bench.measure import Effort, Row, compare, goal_of_build, processor_seconds, take_turns
from stress.lab.predict import run_machine
from stress.lab.validate import recorded_point

NAME = "seconds of a recorded guest (kernel 6.1, two processes with huge pages) that the lab runs in one"


def recorded_guest(effort: Effort) -> list[Row]:
    """The recording is read before; what is measured is building the guest and running its load."""
    run_machine(recorded_point("v6.1", "cap2", "state1"))
    results = take_turns({"lab": seconds_per_second, "real time": lambda: 1.0}, effort.rounds)
    goal = goal_of_build(interpreted=1000.0, compiled=2000.0)
    return [compare(NAME, results["lab"], results["real time"], goal=goal, unit="s/s", against="real time")]


def seconds_per_second() -> float:
    """Run the guest once."""
    begin_s = processor_seconds()
    machine, _ = run_machine(recorded_point("v6.1", "cap2", "state1"))
    return (machine.now_s - machine.start_s) / (processor_seconds() - begin_s)
