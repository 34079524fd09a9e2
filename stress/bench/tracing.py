"""Rows about tracepoints: what they cost when nobody listens, and when everything is recorded."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import partial
from textwrap import dedent
from types import FunctionType

from pagealloc import COMPILED
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.zone import Zone
from stress.bench.measure import (
    SYNC,
    Chunk,
    Effort,
    Row,
    compare,
    one_thread,
    several_threads,
    take_turns,
)
from stress.bench.workloads import ZONE_PAGES, front, mixed
from stress.log.recorder import LogResult, Recorder
from stress.run.conductor import StressRun
from stress.run.params import RunParams
from stress.system.files import temporary_folder
from workers.page_reporting import PageReporting
from workers.reporters import load_reporter
from workers.workqueue import Workqueue


class WithoutTracepoints(ast.NodeTransformer):
    """Takes `trace = self.trace` and `if trace is not None: ...` out of a function."""

    def __init__(self) -> None:
        self.removed = 0

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        return self._without(node, "trace = self.trace", ast.unparse(node))

    def visit_If(self, node: ast.If) -> ast.stmt:
        return self._without(node, "trace is not None", ast.unparse(node.test))

    def _without(self, node: ast.stmt, tracepoint: str, found: str) -> ast.stmt:
        found, tracepoint = (text.replace("self.trace", "trace") for text in (found, tracepoint))
        if found == tracepoint or found.startswith(f"{tracepoint} and "):
            self.removed += 1
            return ast.copy_location(ast.Pass(), node)
        self.generic_visit(node)
        return node


def methods_without_tracepoints(owner: type) -> dict[str, Callable[..., object]]:
    """Compile those methods of a class that have tracepoints again, without them."""
    stripped = {}
    for name, function in vars(owner).items():
        if not isinstance(function, FunctionType):
            continue
        remover = WithoutTracepoints()
        tree = remover.visit(ast.parse(dedent(inspect.getsource(function))))
        if remover.removed:
            namespace = dict(function.__globals__)
            code = compile(
                ast.fix_missing_locations(tree), f"<{name} without tracepoints>", "exec", dont_inherit=True
            )
            exec(code, namespace)  # noqa: S102 - the text is the product's own
            stripped[name] = namespace[name]
    return stripped


def memory_without_tracepoints() -> type[Memory]:
    """Make today's memory and zones without their tracepoints."""
    methods: dict[str, object] = {"__slots__": ()}
    for owner in reversed(Zone.__mro__):
        methods |= methods_without_tracepoints(owner)
    zone_class = type("Zone", (Zone,), methods)
    return type("Memory", (Memory,), {"zone_class": zone_class, **methods_without_tracepoints(Memory)})


def _work(memory_class: type[Memory]) -> tuple[Memory, Chunk]:
    memory = memory_class([ZoneSpec("Normal", ZONE_PAGES)], ram=None, page_sets=False)
    return memory, mixed(*front(memory), seed=1)


def tracepoints(effort: Effort) -> list[Row]:
    """Tracepoints off against none at all, and a run that keeps its log against one that does not."""
    logs = take_turns(
        {"with": partial(_logged, effort), "without": partial(_unlogged, effort)}, effort.rounds
    )
    runs = take_turns(
        {
            "with": partial(_stress_run, effort, "all"),
            "unjudged": partial(_stress_run, effort, "all", judged=False),
            "without": partial(_stress_run, effort, "off"),
        },
        effort.rounds,
    )
    written = [result.written for _, result in logs["with"] if result is not None]
    lost = [result.lost for _, result in logs["with"] if result is not None]
    return [
        _switched_off(effort),
        compare(
            "a stress run with all tracepoints written to its log, against one without",
            runs["with"],
            runs["without"],
            goal=0.5,
            unit="calls/s",
            against="tracepoints off",
        ),
        compare(
            "the same with its log judged as it is written, against not",
            runs["with"],
            runs["unjudged"],
            goal=0.95,
            unit="calls/s",
            against="no judge",
        ),
        compare(
            "bare pairs past the page sets, all tracepoints on and written to a log, against off",
            [rate for rate, _ in logs["with"]],
            [rate for rate, _ in logs["without"]],
            goal=None,
            unit="pairs/s",
            against="tracepoints off",
            figures={"records written": float(sum(written)), "records lost": float(sum(lost))},
        ),
    ]


def _switched_off(effort: Effort) -> Row:
    name = "tracepoints off, against none at all"
    if COMPILED:
        return Row(name, skipped="only interpreted code can be had without its tracepoints")
    chunks = {"off": _work(Memory)[1], "none": _work(memory_without_tracepoints())[1]}
    results = take_turns(
        {name: partial(one_thread, chunk, effort.window_s) for name, chunk in chunks.items()},
        2 * effort.rounds,
    )
    return compare(
        name, results["off"], results["none"], goal=0.98, unit="pairs/s", against="methods without them"
    )


def _stress_run(effort: Effort, log: str, *, judged: bool = True) -> float:
    """Return the calls per second of allocator threads that churn at a steady level, beside the worker."""
    params = RunParams(seconds=effort.warm_up_s + effort.threads_s, rhythm="0.6:1000", log=log)
    with temporary_folder() as folder:
        recorder = Recorder(folder, SYNC, params.as_dict(), {}, judged=judged) if log == "all" else None
        summary = StressRun(params, SYNC, load_reporter("discard"), lambda status: None, recorder).run()
        if recorder is not None:
            recorder.finish()
            recorder.close()
    return (summary.allocs + summary.frees) / summary.seconds


def _unlogged(effort: Effort) -> tuple[float, LogResult | None]:
    _, chunk = _work(Memory)
    return several_threads([chunk], effort.threads_s, effort.warm_up_s).operations, None


def _logged(effort: Effort) -> tuple[float, LogResult | None]:
    memory, chunk = _work(Memory)
    reporting = PageReporting(memory.zones, memory.revision, SYNC, Workqueue(SYNC, "bench"))
    with temporary_folder() as folder:
        recorder = Recorder(folder, SYNC, {}, {})
        recorder.attach(memory, reporting)
        rate = several_threads([chunk], effort.threads_s, effort.warm_up_s).operations
        result = recorder.finish()
        recorder.close()
        return rate, result
