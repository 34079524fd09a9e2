"""What a guest boots into: busybox, the balloon's module, and a load of a few lines of shell, as a cpio archive."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

# The order is set behind the module, whose registration sets it anew (v6.1).
# `fill MIB NAME` takes so much memory, and `drop NAME` frees it again; the load is what stands in place of the mark.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /mem
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=95% mem /mem
say() { echo "$*" > /dev/console; }
fill() { dd if=/dev/zero of=/mem/$2 bs=1M count=$1 2> /dev/null || say "fill $1 $2: no memory"; }
drop() { rm -f /mem/$1; }
for module in @MODULES@; do insmod /$module || say "insmod $module failed"; done
@ORDER@
say "load begins"
@LOAD@
say "load ends"
poweroff -f
"""
ORDER_FILE = "/sys/module/page_reporting/parameters/page_reporting_order"
DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3), "dev/zero": (1, 5)}
MAGIC = "070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive; a device has `rdev`, its two numbers."""

    name: str
    mode: int
    content: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def initrd(busybox: bytes, modules: dict[str, bytes], load: str, order: int | None) -> bytes:
    """Build the archive; modules are loaded in their order, and `order` is the reporting order if it is set."""
    set_order = "" if order is None else f"echo {order} > {ORDER_FILE}"
    init = INIT.replace("@ORDER@", set_order).replace("@MODULES@", " ".join(modules)).replace("@LOAD@", load)
    entries = [
        Entry("bin", stat.S_IFDIR | 0o755),
        Entry("dev", stat.S_IFDIR | 0o755),
        *(Entry(name, stat.S_IFCHR | 0o600, rdev=rdev) for name, rdev in DEVICES.items()),
        Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *(Entry(name, stat.S_IFREG | 0o644, content) for name, content in modules.items()),
        Entry("init", stat.S_IFREG | 0o755, init.encode()),
        Entry(TRAILER, 0),
    ]
    return b"".join(part for number, entry in enumerate(entries, 1) for part in _newc(entry, number))


def _newc(entry: Entry, inode: int) -> Iterator[bytes]:
    """Yield an entry in cpio's `newc` form: hexadecimal fields, then name and content, each filled up to 4 bytes."""
    name = entry.name.encode() + b"\0"
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.rdev, len(name), 0)
    head = MAGIC.encode() + b"".join(b"%08X" % field for field in fields)
    yield _filled(head + name)
    yield _filled(entry.content)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
