"""The first place of `stress.formats.procfs`, where programs that were written then look for it."""

from __future__ import annotations

from stress.formats.procfs import ZoneCounts, buddyinfo, memory_zones, pagetypeinfo, parse_zoneinfo, zoneinfo

__all__ = ["ZoneCounts", "buddyinfo", "memory_zones", "pagetypeinfo", "parse_zoneinfo", "zoneinfo"]
