"""User-mode Linux as a guest: a kernel that runs as a plain process, with the balloon driver as a module.

It has the originals of `mm/page_reporting.c` and `drivers/virtio/virtio_balloon.c`, and talks vhost-user.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pagealloc.sync import Sync
from stress.errors import BadArgument
from stress.host.initrd import initrd
from workers.child import Child

PROGRAM, PACKAGE = "linux.uml", "user-mode-linux"
MODULES = Path("/usr/lib/uml/modules")
DEVICE_ID = 5
PAGEBLOCK_ORDER = 10  # without huge pages, as in user-mode Linux, the largest order
# User-mode Linux has helpers that outlive it when it is killed, and hold its memory. A shell beside them looks whether
# it is still there, and ends them. It is nobody's child: at its end, user-mode Linux waits for its own.
GUARDED = (
    "sh",
    "-c",
    '((while [ -e /proc/$$/exe ]; do sleep 1; done; kill -KILL 0) > /dev/null 2>&1 &); exec "$0" "$@"',
)
# Where a processor has AMX, see `no_xstate`.
WITHOUT_XSTATE = (sys.executable, "-I", str(Path(__file__).with_name("no_xstate.py")))
WITHOUT_AVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load"
PROCESSOR = Path("/proc/cpuinfo")
MEMORY_FILES = Path("/dev/shm")  # noqa: S108 - a file there is memory, and the guest's is nothing else


def find(program: str, package: str) -> Path:
    """Return where a program is. Raises BadArgument, with the package to install."""
    path = shutil.which(program)
    if path is None:
        raise BadArgument(f"{program} is not installed: apt-get install {package}")
    return Path(path)


def balloon_module() -> bytes:
    """Return the balloon driver. Raises BadArgument when the package does not have it."""
    found = sorted(MODULES.glob("*/kernel/drivers/virtio/virtio_balloon.ko"))
    if not found:
        raise BadArgument(f"{MODULES} has no virtio_balloon.ko: apt-get install {PACKAGE}")
    return found[-1].read_bytes()


def build_initrd(load: str, order: int | None) -> bytes:
    """Build what the guest boots into. Raises BadArgument for what is not installed."""
    find(PROGRAM, PACKAGE)
    busybox = find("busybox", "busybox-static").read_bytes()
    return initrd(busybox, {"virtio_balloon.ko": balloon_module()}, load, order)


def has_amx() -> bool:
    """Whether the processor has more registers than user-mode Linux can restore."""
    try:
        return "amx_tile" in PROCESSOR.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def boot(
    sync: Sync, folder: Path, archive: bytes, socket_path: Path, memory_mib: int, hear: Callable[[str], None]
) -> Child:
    """Start a guest whose balloon is the device at `socket_path`; `folder` is for its files. Raises BadArgument."""
    free_mib = shutil.disk_usage(MEMORY_FILES).free >> 20
    if free_mib < memory_mib:
        raise BadArgument(
            f"{MEMORY_FILES} has room for {free_mib} MiB, expected {memory_mib} for the guest's memory"
        )
    initrd_file = folder / "initrd"
    initrd_file.write_bytes(archive)
    amx = has_amx()
    command = [
        *(
            *GUARDED,
            *(WITHOUT_XSTATE if amx else ()),
            PROGRAM,
            f"mem={memory_mib}M",
            f"initrd={initrd_file}",
            f"uml_dir={folder}",
        ),
        *(
            f"virtio_uml.device={socket_path}:{DEVICE_ID}",
            "con=null",
            "con0=null,fd:1",
            "quiet",
            "loglevel=1",
        ),
        *([WITHOUT_AVX] if amx else []),  # what a kernel does not know is in its first process's environment
    ]
    return Child(sync, command, environment={"TMPDIR": str(MEMORY_FILES)}, hear=hear)
