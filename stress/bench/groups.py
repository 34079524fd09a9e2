"""Everything that gives rows, in the order of the table."""

from __future__ import annotations

from functools import partial

from pagealloc import COMPILED
from stress.bench import hypervisor, reporting, throughput, tracing, virtual_time
from stress.bench.measure import QUICK, Effort, Row
from stress.bench.peers import Present

Group = partial[list[Row]]


def groups(effort: Effort, present: Present) -> dict[str, Group]:
    """Return the groups of rows that are measured together, by name."""
    found: list[Group] = [
        partial(throughput.one_thread_mixed, effort, present),
        partial(throughput.many_threads, effort, present),
        partial(throughput.no_collapse, effort),
        partial(throughput.order_zero_pairs, effort, present),
        partial(throughput.own_zones, effort),
        partial(reporting.cost_of_the_worker, effort),
        partial(reporting.hold_times, effort),
        partial(reporting.discard_rate, effort),
        partial(hypervisor.qemu_against_discard, effort),
        partial(reporting.idle_pass, effort),
        partial(virtual_time.recorded_guest, effort),
        partial(tracing.tracepoints, effort),
        partial(schedule_search, effort),
    ]
    return {group.func.__name__: group for group in found}


# What says nothing of floors 1 and 2, or is not for compiled code.
ONE_BUILD_ONLY = ("qemu_against_discard", "schedule_search")


def measure(group: Group, effort: Effort) -> list[Row]:
    """Return a group's rows; windows that are too short to be held against a goal have none."""
    rows = group()
    return [row.without_goal() for row in rows] if effort is QUICK else rows


def schedule_search(effort: Effort) -> list[Row]:
    """The speed of schedule search, where greenlet is installed."""
    name = "schedule search: executions per second, and coroutines against a baton"
    if COMPILED:
        return [Row(name, skipped="only interpreted code can be searched")]
    if effort is QUICK:
        return [Row(name, skipped="takes its time, so --quick leaves it out")]
    try:
        from stress.bench.search import run_bench  # noqa: PLC0415 - greenlet switches the GIL on
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        return [Row(name, skipped="greenlet is not installed: pip install 'pagealloc[search]'")]
    return run_bench()
