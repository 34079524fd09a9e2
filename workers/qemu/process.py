"""QEMU as a process: whether it is there, and what it is called with."""

from __future__ import annotations

import shutil

from workers.errors import DeviceRefused

PROGRAM = "qemu-system-aarch64"
PACKAGE_OF = {PROGRAM: "qemu-system-arm", "setpriv": "util-linux"}


def find_programs() -> None:
    """Raise DeviceRefused, with the package to install, for a program that is missing."""
    for program, package in PACKAGE_OF.items():
        if shutil.which(program) is None:
            raise DeviceRefused(f"reporter qemu: {program} is not installed: apt-get install {package}")


def balloon_command(*, rings: tuple[int, int], ram: tuple[int, int], qtest_fd: int, device: str) -> list[str]:
    """Return the command for a machine with one virtio-balloon and two stretches of RAM, one behind the other.

    Each stretch is a descriptor and a size in bytes: the rings', and then the pages'. They are two NUMA nodes,
    because QEMU takes RAM from several files only so; and the machine is arm's `virt`, whose RAM has no hole.
    """
    nodes = []
    for name, (fd, nr_bytes) in (("rings", rings), ("ram", ram)):
        backend = f"memory-backend-file,id={name},size={nr_bytes},mem-path=/proc/self/fd/{fd},share=on"
        nodes += ["-object", backend, "-numa", f"node,memdev={name}"]
    return [
        *(PROGRAM, "-M", "virt", "-accel", "tcg", "-S", "-m", f"{rings[1] + ram[1]}b", "-display", "none"),
        *("-nodefaults", "-no-user-config", *nodes),
        *("-global", "virtio-mmio.force-legacy=false", "-device", device),
        *("-chardev", f"socket,id=qtest,fd={qtest_fd}", "-qtest", "chardev:qtest", "-qtest-log", "none"),
    ]
