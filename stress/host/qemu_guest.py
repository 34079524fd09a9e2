"""A whole guest in QEMU: a distribution's kernel, with the balloon's modules, and QEMU's own device as its host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pagealloc.ram import BYTES_PER_BLOCK
from pagealloc.sync import Sync
from stress.errors import BadArgument
from stress.host.initrd import initrd
from stress.host.trace_host import EVENTS
from stress.host.uml import find
from workers.child import Child

PROGRAM, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
# In this order: each needs those before it. What the kernel has built in is not there, and not needed.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_balloon",
)
MEMORY_MIB_MAX = 2048  # up to here an address of the guest is an offset in its RAM
RAM_NAME = "guest-ram"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot: its image, and the folder of its modules."""

    image: Path
    modules: Path


def find_kernel(image: Path | None, modules: Path | None) -> Kernel:
    """Return the kernel that was asked for, or the machine's newest one. Raises BadArgument."""
    if image is None:
        images = sorted(Path("/boot").glob("vmlinuz-*"))
        if not images:
            raise BadArgument("--kernel: there is none in /boot, expected a kernel's image (bzImage)")
        image = images[-1]
    if modules is None:
        modules = Path("/lib/modules") / image.name.removeprefix("vmlinuz-")
    for name, path, there in (
        ("--kernel", image, image.is_file() and os.access(image, os.R_OK)),
        ("--modules", modules, modules.is_dir()),
    ):
        if not there:
            raise BadArgument(f"{name}: {path}, expected a kernel's image, and the folder with its modules")
    return Kernel(image, modules)


def build_initrd(kernel: Kernel, load: str, order: int | None) -> bytes:
    """Build what the guest boots into. Raises BadArgument for what is missing."""
    find(PROGRAM, PACKAGE)
    busybox = find("busybox", "busybox-static").read_bytes()
    found = {path.name: path for path in kernel.modules.rglob("virtio*.ko")}
    names = [f"{name}.ko" for name in MODULES]
    if names[-1] not in found:
        raise BadArgument(f"--modules: {kernel.modules} has no virtio_balloon.ko that is not packed")
    return initrd(busybox, {name: found[name].read_bytes() for name in names if name in found}, load, order)


class GuestRam:
    """The guest's RAM: a file in memory that QEMU maps."""

    def __init__(self, nr_bytes: int) -> None:
        self.nr_bytes = nr_bytes
        self.fd = os.memfd_create(RAM_NAME, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, nr_bytes)

    def resident_bytes(self) -> int:
        """Ask the operating system how much of it is there."""
        return os.fstat(self.fd).st_blocks * BYTES_PER_BLOCK

    def address_in(self, pid: int) -> int:
        """Return where a process has mapped it. Raises BadArgument when it has not."""
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            if f"memfd:{RAM_NAME}" in line:
                return int(line.partition("-")[0], 16)
        raise BadArgument(f"process {pid} has not mapped the guest's RAM")


@contextmanager
def guest_ram(memory_mib: int) -> Iterator[GuestRam]:
    """Lend RAM for a guest."""
    ram = GuestRam(memory_mib << 20)
    try:
        yield ram
    finally:
        os.close(ram.fd)


def boot(
    sync: Sync, folder: Path, kernel: Kernel, archive: bytes, ram: GuestRam, hear: Callable[[str], None]
) -> Child:
    """Start the guest; its console and QEMU's trace are what is heard. `folder` is for its files."""
    initrd_file = folder / "initrd"
    initrd_file.write_bytes(archive)
    backend = f"memory-backend-file,id=ram,size={ram.nr_bytes},mem-path=/proc/self/fd/{ram.fd},share=on"
    command = [
        *(PROGRAM, "-M", "q35,memory-backend=ram", "-accel", "tcg", "-m", f"{ram.nr_bytes}b"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-object", backend, "-device", "virtio-balloon-pci,free-page-reporting=on"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd_file)),
        *("-append", "console=ttyS0 quiet loglevel=1 panic=-1", "-msg", "timestamp=on"),
        *(word for event in EVENTS for word in ("-trace", event)),
    ]
    return Child(sync, command, fds=[ram.fd], hear=hear)
