"""Print what docs/HOST.md compares: the batches of one load in user-mode Linux, and in this program.

python docs/side_by_side.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pagealloc import GFP_KERNEL, Memory, ZoneSpec
from pagealloc.revision import PRESETS
from pagealloc.zone import Zone
from workers import reporting
from workers.page_reporting import Batch
from workers.reporters import Discard

MIB = 1 << 20
ORDER = 10
FILL_MIB = 200
ZONE_BLOCKS = 116  # of order 10: what the guest's kernel has free when its balloon registers
LOAD = f"fill {FILL_MIB} a\nsleep 2\ndrop a\nsleep 8\n"
FIRST_PASS_S, LAST_PASS_S = 3.0, 8.0  # by then the pass before the free is over, and the one behind it


class Report(NamedTuple):
    """A batch: when it came, how many blocks, and what was resident before and after it, in bytes."""

    seconds: float
    blocks: int
    before: int
    after: int


class Watched(Discard):
    """Gives blocks back, and keeps a report of each batch."""

    def __init__(self, memory: Memory) -> None:
        self.reports: list[Report] = []
        self._memory = memory

    def report(self, zone: Zone, batch: Batch) -> None:
        """Give the batch back."""
        now_s, before = time.monotonic(), self._memory.resident_bytes()
        super().report(zone, batch)
        self.reports.append(Report(now_s, len(batch), before, self._memory.resident_bytes()))


def in_user_mode_linux(folder: Path) -> list[Report]:
    """Boot a guest of 512 MiB, and return what its log has."""
    script, run = folder / "load", folder / "run"
    script.write_text(LOAD)
    stress = [sys.executable, "-m", "stress"]
    guest = [*stress, "guest", str(script), "--memory=512", f"--order={ORDER}", f"--run-dir={run}", "--json"]
    subprocess.run(guest, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
    query = (
        "select seconds, len(ranges) as blocks, resident_bytes_before as before, resident_bytes_after as after "
        "from guest_report order by seconds"
    )
    ask = [*stress, "sql", "--json", str(run), query]
    rows = subprocess.run(ask, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own words
    return [Report(**json.loads(line)) for line in rows.stdout.splitlines()]


def in_this_program() -> list[Report]:
    """Do the same to a zone of as many blocks."""
    zones = [ZoneSpec("Normal", nr_pages=ZONE_BLOCKS << ORDER)]
    with Memory(zones, revision=PRESETS["v6.1"]) as memory:
        reporter = Watched(memory)
        with reporting(memory, reporter, order=ORDER):
            pages = [memory.alloc_pages(GFP_KERNEL) for _ in range(FILL_MIB * MIB // memory.layout.page_size)]
            for pfn in pages:
                assert pfn is not None
                memory.view(pfn)[0] = 1
            time.sleep(FIRST_PASS_S)
            for pfn in pages:
                assert pfn is not None
                memory.free_pages(pfn)
            memory.drain_local_pages()
            time.sleep(LAST_PASS_S)
        return reporter.reports


def main() -> None:
    """Print both, each batch with the time since the first one."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {"user-mode Linux": in_user_mode_linux(Path(folder)), "this program": in_this_program()}
    for name, reports in sides.items():
        print(f"{name}: {len(reports)} batches, {sum(report.blocks for report in reports)} blocks")
        for report in reports:
            seconds = report.seconds - reports[0].seconds
            resident = f"{report.before // MIB:4} -> {report.after // MIB:4} MiB resident"
            print(f"  {seconds:6.2f} s  {report.blocks:3} blocks  {resident}")


if __name__ == "__main__":
    main()
