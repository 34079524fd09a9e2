"""The guest's memory, as its host has it: regions of files, by guest physical address (gpa) and by the front's own."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from dataclasses import dataclass

from pagealloc.ram import BYTES_PER_BLOCK, file_data_bytes, punch_hole
from stress.host.wire import PeerError


@dataclass(slots=True)
class Region:
    """A stretch of guest memory: where the guest and the front have it, and where it is in its file."""

    gpa: int
    nr_bytes: int
    front_address: int
    file_offset: int
    fd: int
    bytes: mmap.mmap


class GuestMemory:
    """Regions of memory that a guest shares with us."""

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def add(self, gpa: int, nr_bytes: int, front_address: int, file_offset: int, fd: int) -> None:
        """Map a region; `fd` is ours from here on. Raises PeerError when it cannot be mapped."""
        try:
            mapped = mmap.mmap(fd, nr_bytes, offset=file_offset)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise PeerError(f"the guest's memory at {gpa:#x} cannot be mapped: {error}") from error
        self._regions.append(Region(gpa, nr_bytes, front_address, file_offset, fd, mapped))
        self._regions.sort(key=lambda region: region.gpa)

    def close(self) -> None:
        """Let go of all regions."""
        for region in self._regions:
            region.bytes.close()
            os.close(region.fd)
        self._regions = []

    def region(self, gpa: int, nr_bytes: int) -> Region | None:
        """Return the region that holds a whole range, or None."""
        at = bisect_right(self._regions, gpa, key=lambda region: region.gpa) - 1
        if at < 0:
            return None
        region = self._regions[at]
        return region if gpa + nr_bytes <= region.gpa + region.nr_bytes else None

    def at_front_address(self, address: int, nr_bytes: int) -> tuple[mmap.mmap, int]:
        """Return the mapping that has a range of the front's addresses, and where. Raises PeerError."""
        for region in self._regions:
            offset = address - region.front_address
            if 0 <= offset <= region.nr_bytes - nr_bytes:
                return region.bytes, offset
        raise PeerError(f"a queue at {address:#x} is not within the guest's memory")

    def give_back(self, region: Region, gpa: int, nr_bytes: int) -> None:
        """Give a range back to the operating system; the guest reads zeroes there. Raises RamError."""
        punch_hole(region.fd, region.file_offset + gpa - region.gpa, nr_bytes)

    def resident_in(self, region: Region, gpa: int, nr_bytes: int) -> int:
        """Return how many bytes of a range the operating system holds."""
        return file_data_bytes(region.fd, region.file_offset + gpa - region.gpa, nr_bytes)

    @property
    def nr_bytes(self) -> int:
        """The size of all regions."""
        return sum(region.nr_bytes for region in self._regions)

    def resident_bytes(self) -> int:
        """Ask the operating system how much of the guest's files it holds."""
        files = {
            (stat.st_dev, stat.st_ino): stat for stat in (os.fstat(region.fd) for region in self._regions)
        }
        return sum(stat.st_blocks * BYTES_PER_BLOCK for stat in files.values())
