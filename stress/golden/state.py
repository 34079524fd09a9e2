"""The whole state of a zone in the recordings' form: printed, digested, and loaded again."""

from __future__ import annotations

import hashlib
import json

from pagealloc.inventory import block_types, lay_out, set_lru
from pagealloc.mmzone import MIGRATE_TYPES
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
    reported: list[int] = []
    for order, nr_free in enumerate(zone.nr_free):
        for migratetype in range(MIGRATE_TYPES if nr_free else 0):
            pfns = list(zone.list_pfns(order, migratetype))
            if pfns:
                lists[f"{order}.{migratetype}"] = pfns
                if zone.nr_reported[order]:
                    reported += filter(zone.is_reported, pfns)
    return {
        "free": zone.nr_free_pages,
        "boost": zone.watermark_boost,
        "highatomic": zone.nr_reserved_highatomic,
        "isolate": zone.nr_isolate_pageblock,
        "nr_free": list(zone.nr_free),
        "lists": lists,
        "reported": sorted(reported),
        "blocks": block_types(zone).translate(DIGITS).decode(),
    }


def load_zone(zone: Zone, state: Json) -> None:
    """Give a zone the lists, flags and pageblock types of a recorded state; all other pages are allocated."""
    lists = []
    for name, pfns in state["lists"].items():
        order, migratetype = map(int, name.split("."))
        if not (0 <= order < zone.layout.nr_orders and 0 <= migratetype < MIGRATE_TYPES):
            raise CorruptCase(f"a list {quoted(name)}")
        lists.append((order, migratetype, pfns))
    lay_out(zone, lists, bytes(map(int, state["blocks"])))
    for pfn in state["reported"]:
        zone.set_reported(pfn)
    for pfn, count in state.get("lru", ()):
        set_lru(zone, pfn, count)
