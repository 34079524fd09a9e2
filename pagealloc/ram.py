"""The memory behind the pages: bytes that really come from the operating system, and really go back.

Two kinds. `anonymous` is a private mapping. `memfd` is a shared file in memory whose descriptor another
process can map. Neither costs anything until it is touched.

Giving back goes through `ctypes`, because `mmap.mmap.madvise` keeps the interpreter's global lock for the
whole call and would stop every allocator thread while the reporter works. MADV_DONTNEED on a memfd would
only drop this process's view and free nothing, so there a hole is punched.

An address and a descriptor mean something else once they were given back, so both are kept by objects: whoever
uses one has a reference to its object for the length of the call, and the last reference gives it back.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Literal

from pagealloc.errors import AnotherProcess, MemoryClosed, RamError
from pagealloc.fork import belongs_to_this_process
from pagealloc.mmzone import PAGE_SHIFT

RamKind = Literal["anonymous", "memfd"]

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
BYTES_PER_BLOCK = 512  # the unit of `st_blocks`
MINCORE_CHUNK_BYTES = 1 << 30
WRITE_CHUNK_BYTES = 4 << 20

_ZEROES = bytes(WRITE_CHUNK_BYTES)

_libc = ctypes.CDLL(None, use_errno=True)  # CDLL, not PyDLL: it lets other threads run during the call


def _function(name: str, *argtypes: type) -> ctypes._NamedFuncPointer | None:
    function = getattr(_libc, name, None)
    if function is not None:
        function.argtypes = argtypes
        function.restype = ctypes.c_int
    return function


_madvise = _function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mincore = _function("mincore", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_fallocate = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise RamError(f"{what}: {os.strerror(number)} (errno {number})")


def punch_hole(fd: int, offset: int, nr_bytes: int) -> None:
    """Give a range of a file in memory back; it reads as zeroes afterwards. Raises RamError."""
    if _fallocate is None:
        raise RamError("punching a hole needs fallocate, which Linux has")
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    _check(_fallocate(fd, mode, offset, nr_bytes), f"fallocate(PUNCH_HOLE) at {offset:#x}")


def file_data_bytes(fd: int, offset: int, nr_bytes: int) -> int:
    """Return how many bytes of a range of a file are data, and not holes. Raises RamError."""
    end, found = offset + nr_bytes, 0
    try:
        while offset < end and (data := os.lseek(fd, offset, os.SEEK_DATA)) < end:
            offset = min(end, os.lseek(fd, data, os.SEEK_HOLE))
            found += offset - data
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data from there to the end
            raise RamError(f"lseek(SEEK_DATA) at {offset:#x}: {error.strerror}") from error
    return found


ORDER_MAX = 51  # of a block within 64 bits of address


class Descriptor:
    """A file descriptor that is closed with its last user."""

    __slots__ = ("_close", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._close = os.close  # when the interpreter goes, names go first

    def __del__(self) -> None:
        self._close(self.number)


class Ram:
    """Memory for `nr_pages` pages of 2**`page_shift` bytes from `start_pfn` on.

    Raises RamError when the operating system refuses, and ValueError for an unknown `kind`.
    """

    def __init__(
        self, start_pfn: int, nr_pages: int, kind: RamKind = "anonymous", page_shift: int = PAGE_SHIFT
    ) -> None:
        if _madvise is None or _mincore is None or _fallocate is None:
            raise RamError("giving memory back needs madvise, mincore and fallocate, which Linux has")
        if 1 << page_shift < mmap.PAGESIZE:
            raise RamError(f"host pages are {mmap.PAGESIZE} bytes, expected {1 << page_shift} or less")
        self.kind = kind
        self.start_pfn = start_pfn
        self.page_shift = page_shift
        self.nr_bytes = nr_pages << page_shift
        self._descriptor: Descriptor | None = None
        self._parted = False
        try:
            if kind == "anonymous":
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
                mapping = mmap.mmap(-1, self.nr_bytes, flags=flags)
            elif kind == "memfd":
                self._descriptor = Descriptor(os.memfd_create("pagealloc", os.MFD_CLOEXEC))
                os.ftruncate(self.fd, self.nr_bytes)
                mapping = mmap.mmap(self.fd, self.nr_bytes, flags=mmap.MAP_SHARED | MAP_NORESERVE)
            else:
                raise ValueError(f"RAM kind {kind!r}, expected 'anonymous' or 'memfd'")
        except (OSError, OverflowError) as error:
            raise RamError(f"no {kind} mapping of {self.nr_bytes} bytes: {error}") from error
        self._mmap: mmap.mmap | None = mapping
        anchor = ctypes.c_char.from_buffer(mapping)
        self.address = ctypes.addressof(anchor)
        del anchor  # it would count as an export for ever
        belongs_to_this_process(self)

    @property
    def fd(self) -> int:
        """The memfd, or -1."""
        descriptor = self._descriptor
        return -1 if descriptor is None else descriptor.number

    def close(self) -> None:
        """Give everything back; any thread may, at any time, and again.

        The address range and the descriptor go when the last view of a page and the last call that is under way
        do. In the child of a fork only the child's own mapping goes.
        """
        mapping, descriptor, nr_bytes = self._mmap, self._descriptor, self.nr_bytes
        self.nr_bytes = 0
        self._mmap = self._descriptor = None
        if mapping is not None and nr_bytes:
            self._give_back(descriptor, 0, nr_bytes)

    def part(self) -> None:
        """Touch nothing any more, in the child of a fork: a memfd is the parent's memory."""
        self._parted = True
        self.nr_bytes = 0

    def offset(self, pfn: int) -> int:
        """Return where a page begins, in bytes from the start of the mapping (and of the memfd)."""
        return (pfn - self.start_pfn) << self.page_shift

    def view(self, pfn: int, order: int = 0) -> memoryview:
        """Return the writable bytes of a block. Raises RamError when it is not within this memory."""
        if not 0 <= order <= ORDER_MAX:
            raise RamError(
                f"pfn {pfn:#x}, order {order}: expected a block's pfn and order, 0 .. {ORDER_MAX}, not its offset and "
                "length"
            )
        offset, nr_bytes = self.offset(pfn), 1 << order + self.page_shift
        return self._span(offset, nr_bytes)

    @property
    def memory(self) -> memoryview:
        """All bytes."""
        return self._span(0, self.nr_bytes)

    def _span(self, offset: int, nr_bytes: int) -> memoryview:
        mapping = self._mmap
        self._check_within(offset, nr_bytes)
        span = (ctypes.c_ubyte * nr_bytes).from_address(self.address + offset)
        span.owner = mapping  # type: ignore[attr-defined]  # keeps the mapping as long as the view lives
        return memoryview(span).cast("B")

    def page_words(self, pfn: int, order: int) -> memoryview:
        """Return the first eight bytes of every page of a block, as a strided view of unsigned 64-bit words."""
        return self.view(pfn, order).cast("Q")[:: 1 << self.page_shift - 3]

    def zero(self, pfn: int, order: int) -> None:
        """Write zeroes over a block."""
        view = self.view(pfn, order)
        for at in range(0, len(view), WRITE_CHUNK_BYTES):
            behind = min(at + WRITE_CHUNK_BYTES, len(view))
            view[at:behind] = _ZEROES[: behind - at]

    def discard(self, offset: int, nr_bytes: int) -> None:
        """Give a range back to the operating system; it reads as zeroes afterwards.

        Other threads run meanwhile, and may close this memory. Raises RamError when the operating system refuses.
        """
        kept = (
            self._mmap,
            self._descriptor,
        )  # until the call is over; who closes says so before he gives them up
        self._check_within(offset, nr_bytes)
        self._give_back(kept[1], offset, nr_bytes)
        del kept

    def _give_back(self, descriptor: Descriptor | None, offset: int, nr_bytes: int) -> None:
        if descriptor is not None:
            punch_hole(descriptor.number, offset, nr_bytes)
        else:
            assert _madvise is not None
            result = _madvise(self.address + offset, nr_bytes, mmap.MADV_DONTNEED)
            _check(result, f"madvise(MADV_DONTNEED) at {offset:#x}")

    def _check_within(self, offset: int, nr_bytes: int) -> None:
        if offset < 0 or nr_bytes <= 0 or offset + nr_bytes > self.nr_bytes:
            self._check_process()
            text = f"range {offset:#x} + {nr_bytes:#x} is not within {self.nr_bytes:#x} bytes of RAM"
            if not self.nr_bytes:  # what `close` changes first
                raise MemoryClosed(f"{text}: this memory is closed")
            raise RamError(text)

    def _check_process(self) -> None:
        if self._parted:
            raise AnotherProcess("this RAM is the parent process's; expected a memory of the child's own")

    def resident_bytes(self) -> int:
        """Ask the operating system how much of this memory it holds (`st_blocks`, or `mincore`)."""
        kept = self._mmap, self._descriptor
        self._check_process()
        if kept[1] is not None:
            return os.fstat(kept[1].number).st_blocks * BYTES_PER_BLOCK
        return self._mincore_bytes(0, self.nr_bytes)

    def resident_in(self, offset: int, nr_bytes: int) -> int:
        """Ask the operating system how many bytes of a range it holds, in whole pages; 0 for a range given back.

        For whoever has the range to themselves. Of a memfd the file is asked where its data and its holes are,
        which takes a microsecond for a range without data. Raises RamError when the range is not within this memory.
        """
        kept = self._mmap, self._descriptor
        self._check_within(offset, nr_bytes)
        if kept[1] is not None:
            return file_data_bytes(kept[1].number, offset, nr_bytes)
        return self._mincore_bytes(offset, nr_bytes)

    def _mincore_bytes(self, offset: int, nr_bytes: int) -> int:
        assert _mincore is not None
        resident_pages = 0
        page = mmap.PAGESIZE
        for start in range(offset, offset + nr_bytes, MINCORE_CHUNK_BYTES):
            length = min(MINCORE_CHUNK_BYTES, offset + nr_bytes - start)
            pages = ctypes.create_string_buffer((length + page - 1) // page)
            _check(_mincore(self.address + start, length, pages), "mincore")
            resident_pages += pages.raw.count(b"\x01")
        return resident_pages * page
