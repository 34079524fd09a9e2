"""The whole state of a zone in the recordings' form: printed, digested, and loaded again."""

from __future__ import annotations

import hashlib
import json

from pagealloc.mmzone import MIGRATE_TYPES
from pagealloc.page_flags import ALLOCATED, LRU, TAIL
from pagealloc.zone import Zone
from stress.errors import quoted
from stress.golden.cases import CorruptCase, Json

DIGITS = bytes(ord(str(number % 10)) for number in range(256))  # what a pageblock's type is printed as


def digest(state: Json) -> str:
    """Identify a state: the first 8 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def zone_state(zone: Zone) -> Json:
    """Put a zone into the recordings' form."""
    lists = {}
    reported = []
    for order, nr_free in enumerate(zone.nr_free):
        for migratetype in range(MIGRATE_TYPES if nr_free else 0):
            pfns = [zone.base_pfn + index for index in zone.free_list(order, migratetype)]
            if pfns:
                lists[f"{order}.{migratetype}"] = pfns
                if zone.nr_reported[order]:
                    reported += [pfn for pfn in pfns if zone.page_reported(pfn - zone.base_pfn)]
    return {
        "free": zone.nr_free_pages,
        "boost": zone.watermark_boost,
        "highatomic": zone.nr_reserved_highatomic,
        "isolate": zone.nr_isolate_pageblock,
        "nr_free": list(zone.nr_free),
        "lists": lists,
        "reported": sorted(reported),
        "blocks": zone.block_types().translate(DIGITS).decode(),
    }


def load_zone(zone: Zone, state: Json) -> None:
    """Give a zone the lists, flags and pageblock types of a recorded state; all other pages are allocated."""
    for order in range(zone.layout.nr_orders):
        for migratetype in range(MIGRATE_TYPES):
            for index in list(zone.free_list(order, migratetype)):
                zone.del_page_from_free_list(index, order)
    first, behind = zone.start_pfn - zone.base_pfn, zone.end_pfn - zone.base_pfn
    zone.state[first:behind] = bytes([ALLOCATED]) * (behind - first)
    zone.nr_free_pages = zone.nr_free_highatomic = 0
    for name, pfns in state["lists"].items():
        order, migratetype = map(int, name.split("."))
        if not (0 <= order < zone.layout.nr_orders and 0 <= migratetype < MIGRATE_TYPES):
            raise CorruptCase(f"a list {quoted(name)}")
        for pfn in pfns:
            index = pfn - zone.base_pfn
            zone.state[index : index + (1 << order)] = bytes([TAIL]) * (1 << order)
            zone.add_to_free_list_tail(index, order, migratetype)
            zone.account_freepages(1 << order, migratetype)
    for pfn in state["reported"]:
        zone.set_reported(pfn)
    types = bytes(map(int, state["blocks"]))
    start = first >> zone.layout.pageblock_order
    zone.pageblock_types[start : start + len(types)] = types
    for pfn, count in state.get("lru", ()):
        index = pfn - zone.base_pfn
        zone.state[index : index + count] = bytes([LRU]) * count
