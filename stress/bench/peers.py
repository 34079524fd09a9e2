"""Other people's allocators in Python, by their public interfaces, behind one lock where they have none.

`pip install 'pagealloc[peers]'` brings those of the package index. Left out are LMCache's AddressManager,
whose module needs torch, and TensorRT-LLM's BuddyAllocator, which no package holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.heap import Heap
from pathlib import Path
from types import ModuleType
from typing import Any

from pagealloc.mmzone import PAGE_SIZE
from stress.bench.measure import SYNC

LEFT_OUT = {
    "LMCache AddressManager": "its module needs torch",
    "TensorRT-LLM BuddyAllocator": "it is in no package of the index",
}


class Absent(Exception):
    """A peer is not installed."""


class Locked:
    """An allocator without a lock, made thread-safe: bound methods, the fastest way to take a lock."""

    __slots__ = ("_acquire", "_alloc", "_free", "_release", "_unit_bytes")

    def __init__(self, alloc: Callable[[int], Any], free: Callable[[Any], object], unit: int) -> None:
        lock = SYNC.mutex("peer")
        self._acquire = lock.acquire
        self._release = lock.release
        self._alloc = alloc
        self._free = free
        self._unit_bytes = unit

    def alloc(self, order: int) -> Any:
        self._acquire()
        try:
            return self._alloc(self._unit_bytes << order)
        finally:
            self._release()

    def free(self, block: Any, order: int) -> None:
        self._acquire()
        try:
            self._free(block)
        finally:
            self._release()


class OwnLock:
    """An allocator that is thread-safe by itself."""

    __slots__ = ("_free", "_malloc")

    def __init__(self, malloc: Callable[[int], Any], free: Callable[[Any], object]) -> None:
        self._malloc = malloc
        self._free = free

    def alloc(self, order: int) -> Any:
        return self._malloc(PAGE_SIZE << order)

    def free(self, block: Any, order: int) -> None:
        self._free(block)


def cocotbext_axi(nr_pages: int) -> Locked:
    """Buddy allocator of a bus model's address space."""
    inner = _module_alone("cocotbext.axi", "buddy_allocator").BuddyAllocator(nr_pages)
    return Locked(inner.alloc, inner.free, 1)


def tinygrad(nr_pages: int) -> Locked:
    """Two-level segregated fit, for the memory of a graphics processor."""
    try:
        from tinygrad.runtime.support.memory import TLSFAllocator  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Absent("tinygrad is not installed") from error
    inner = TLSFAllocator(nr_pages * PAGE_SIZE)
    return Locked(inner.alloc, inner.free, PAGE_SIZE)


def multiprocessing_heap(nr_pages: int) -> OwnLock:
    """The standard library's heap of shared memory; it has a lock of its own."""
    inner = Heap(nr_pages * PAGE_SIZE)
    return OwnLock(inner.malloc, inner.free)


def pyarrow_buffers(nr_pages: int) -> OwnLock:
    """A pool in C++ with real memory, for scale: no peer to be beaten by a model in Python."""
    del nr_pages
    try:
        from pyarrow import allocate_buffer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Absent("pyarrow is not installed") from error
    return OwnLock(allocate_buffer, lambda _: None)  # a buffer is freed when nobody holds it


Peer = Callable[[int], Locked | OwnLock]

PEERS: dict[str, Peer] = {
    "cocotbext-axi BuddyAllocator": cocotbext_axi,
    "tinygrad TLSFAllocator": tinygrad,
    "multiprocessing Heap": multiprocessing_heap,
}
FOR_SCALE: dict[str, Peer] = {"pyarrow allocate_buffer": pyarrow_buffers}


@dataclass(frozen=True, slots=True)
class Present:
    """The peers that are there, and why the others are not."""

    peers: dict[str, Peer]
    for_scale: dict[str, Peer]
    absent: dict[str, str]

    @property
    def missing(self) -> str:
        """Name the peers of `PEERS` that are not installed, and how they are; empty when all are there."""
        names = [name for name in PEERS if name not in self.peers]
        return f"{', '.join(names)} (pip install 'pagealloc[peers]')" if names else ""


def find_peers() -> Present:
    """Look which peers can be made here."""
    absent = dict(LEFT_OUT)

    def present(candidates: dict[str, Peer]) -> dict[str, Peer]:
        found = {}
        for name, make in candidates.items():
            try:
                make(1)
            except Absent as error:
                absent[name] = str(error)
            else:
                found[name] = make
        return found

    return Present(present(PEERS), present(FOR_SCALE), absent)


def _module_alone(package: str, name: str) -> ModuleType:
    """Load a module without its package, whose other modules give a free-threaded interpreter its GIL back."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / f"{name}.py"
        found = importlib.util.spec_from_file_location(f"_alone_{name}", path)
        if path.is_file() and found is not None and found.loader is not None:
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module
    raise Absent(f"{package.replace('.', '-')} is not installed")
