"""A run's log as the text of the kernel's own trace, so that scripts and importers made for that read ours.

The events are those of `include/trace/events/kmem.h`. Each thread of the run is a task with a CPU of its own, for it
has a page set of its own. What Linux lacks (the reporting events, frees to the zone's lists, locks) is left out.

The lines are those of a kernel whose tracer has the option `noirq-info`: a column says where interrupts are off, and
`trace-pagealloc-postprocess.pl` reads lines without it only. It also expects the pfn of mm_page_alloc_extfrag as a
decimal number, which is how older kernels print it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stress.formats.ftrace import format_event, page_fields
from stress.log.events import (
    MmPageAlloc,
    MmPageAllocExtfrag,
    MmPageAllocZoneLocked,
    MmPageFree,
    MmPagePcpuDrain,
)
from stress.log.files import BadLog, LogDamage
from stress.log.reader import LogReader, check_is_log

FIRST_PID = 1000  # of thread 0
NS = 1_000_000_000
HEAD = """\
# tracer: nop
#
#           TASK-PID     CPU#     TIMESTAMP  FUNCTION
#              | |         |         |         |
"""


def trace_text(run: Path, until_s: float, *, decimal: bool = False) -> Iterator[str]:
    """Yield the trace of a run up to a time, in lines; pfns `decimal` or hexadecimal.

    Raises BadLog when it has no log, or one that is damaged.
    """
    check_is_log(run)
    reader = LogReader(run)
    until_ns = min(until_s, 1e9) * NS
    yield HEAD
    try:
        for record in reader:
            if record.t > until_ns:
                break
            write = _WRITERS.get(type(record))
            if write is not None:
                thread = record.thread
                task = reader.threads.get(thread, f"thread-{thread}")
                tag = str(type(record).__struct_config__.tag)
                text = f"{_page(record, decimal)} {write(record)}"
                yield format_event(task, FIRST_PID + thread, thread, record.t, tag, text, flags=None) + "\n"
    except LogDamage as damage:
        raise BadLog(f"{run}: the log is damaged: {damage}") from damage


def _page(record: Any, decimal: bool) -> str:
    if record.pfn < 0:  # without memory the kernel prints a null pointer, and page 0
        return f"page={0:016x} pfn={'0' if decimal else '0x0'}"
    return page_fields(record.pfn, decimal=decimal)


def _alloc(record: MmPageAlloc) -> str:
    return f"order={record.order} migratetype={record.migratetype} gfp_flags={record.gfp_flags}"


def _free(record: MmPageFree) -> str:
    return f"order={record.order}"


def _zone_locked(record: MmPageAllocZoneLocked) -> str:
    return f"{_drain(record)} percpu_refill={record.percpu_refill:d}"


def _drain(record: MmPageAllocZoneLocked | MmPagePcpuDrain) -> str:
    return f"order={record.order} migratetype={record.migratetype}"


def _extfrag(record: MmPageAllocExtfrag) -> str:
    return (
        f"alloc_order={record.alloc_order} fallback_order={record.fallback_order} "
        f"pageblock_order={record.pageblock_order} alloc_migratetype={record.alloc_migratetype} "
        f"fallback_migratetype={record.fallback_migratetype} fragmenting={record.fragmenting:d} "
        f"change_ownership={record.change_ownership:d}"
    )


_WRITERS: dict[type, Callable[[Any], str]] = {
    MmPageAlloc: _alloc,
    MmPageFree: _free,
    MmPageAllocZoneLocked: _zone_locked,
    MmPagePcpuDrain: _drain,
    MmPageAllocExtfrag: _extfrag,
}
