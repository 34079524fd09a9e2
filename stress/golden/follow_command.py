"""`stress follow`: the calls of a running kernel's users through our page sets, against what its zones saw."""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

from pagealloc.revision import DEFAULT, PRESETS
from stress.errors import BadArgument, BadInput, Verdict
from stress.formats.ftrace import open_text, read_ftrace
from stress.formats.procfs import parse_zoneinfo
from stress.golden.follow import Agreement, Block, Difference, calls_of, follow
from stress.system.files import READ_BYTES_MAX

DIFFERENCES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_follow)
    parser.add_argument(
        "trace", type=Path, metavar="TRACE", help="trace text with all kmem events, .gz or not"
    )
    parser.add_argument(
        "zoneinfo",
        type=Path,
        metavar="ZONEINFO",
        help="the guest's /proc/zoneinfo, with whatever else around it",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT.name,
        choices=PRESETS,
        metavar="P",
        help=f"kernel to follow: {', '.join(PRESETS)} (default: {DEFAULT.name})",
    )
    parser.add_argument(
        "--at-least",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="of the calls with a zone event that must agree (default: 0.99)",
    )


def command_follow(arguments: argparse.Namespace) -> int:
    """Say how many calls came out as recorded; exit status 1 when too few did."""
    if not 0 <= arguments.at_least <= 1:
        raise BadArgument(f"--at-least: {arguments.at_least:g}, expected a share, 0 .. 1")
    try:
        with open_text(arguments.zoneinfo) as file:
            guest = parse_zoneinfo(file.read(READ_BYTES_MAX))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise BadInput(f"{arguments.zoneinfo}: {error}, expected /proc/zoneinfo text") from error
    try:
        calls = calls_of(read_ftrace(arguments.trace), PRESETS[arguments.preset])
    except OSError as error:
        raise BadInput(f"{arguments.trace}: {error.strerror}") from error
    if not guest:
        raise BadInput(f"{arguments.zoneinfo}: no zone in it, expected /proc/zoneinfo text")
    if not calls:
        raise BadInput(f"{arguments.trace}: no call in it, expected trace text with all kmem events")
    agreement = follow(guest, PRESETS[arguments.preset], calls)
    print(*lines_of(agreement), sep="\n")
    enough = agreement.zone_calls > 0 and agreement.share >= arguments.at_least
    verdict = Verdict.of(failed=not enough)
    print(f"{verdict} {agreement.share:.2%} of the calls that reach the zone agree, with {arguments.preset}")
    return verdict.exit_status


def lines_of(agreement: Agreement) -> list[str]:
    """Tell an agreement in words."""
    lines = [_difference(difference) for difference in agreement.differences[:DIFFERENCES_SHOWN]]
    if len(agreement.differences) > DIFFERENCES_SHOWN:
        lines.append(f"... and {len(agreement.differences) - DIFFERENCES_SHOWN} more")
    lines += [
        f"{agreement.calls:9,} calls, {agreement.agree:,} agree, {agreement.same_pages:,} of them to the page",
        f"{agreement.zone_calls:9,} of them reach the zone, {agreement.zone_agree:,} agree in pages, orders and types",
    ]
    for cpu, pages in agreement.unseen.items():
        lines.append(
            f"{pages:9,} pages rest on CPU {cpu} throughout, by its first drain, which is not judged"
        )
    if agreement.unasked:
        lines.append(f"{agreement.unasked:9,} refills and drains that no traced call asked for, not judged")
    return lines


def _difference(difference: Difference) -> str:
    call = difference.call
    what = (
        f"frees {len(call.frees)} blocks"
        if call.alloc is None
        else f"allocates pfn {call.alloc[0]:#x} order {call.alloc[1]}"
    )
    return (
        f"{call.time_s:.6f} s, CPU {call.cpu} {what}\n"
        f"    kernel: {_words(call.zone_events)}\n"
        f"    ours:   {_words(difference.predicted)}"
    )


def _words(blocks: list[Block]) -> str:
    kinds = sorted({(order, migratetype) for _, order, migratetype in blocks})
    return (
        ", ".join(
            f"{sum(block[1:] == kind for block in blocks)} of order {kind[0]} type {kind[1]}"
            for kind in kinds
        )
        or "no zone event"
    )
