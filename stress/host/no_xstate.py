"""A program that starts another one for which the processor has no more state than x87 and SSE.

User-mode Linux saves and restores the registers of its processes with `ptrace`, in a buffer of its own size. Where a
processor has more state than that (AMX adds 8 KiB), the host refuses to restore it since Linux 5.16, and the guest
panics in its first process. A kernel that finds no such request (`PTRACE_GETREGSET` for NT_X86_XSTATE) takes the older
one, for x87 and SSE alone. So a seccomp filter answers EIO to it, in this process and whatever it becomes.

A process of the guest that used AVX would lose its upper halves at a switch; who boots the guest tells its C library
to leave AVX alone.

python no_xstate.py PROGRAM ARGUMENT ...
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
AUDIT_ARCH_X86_64 = 0xC000003E
SYS_PTRACE = 101
PTRACE_GETREGSET, PTRACE_SETREGSET = 0x4204, 0x4205
NT_X86_XSTATE = 0x202
EIO = 5

LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: a word of the call, a jump, an answer
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | EIO
CALL, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # where they are in what a filter sees (`struct seccomp_data`)

# (code, jump if true, jump if false, operand); jumps count from the next line.
FILTER = (
    (LOAD, 0, 0, ARCHITECTURE),
    (IF_EQUAL, 0, 8, AUDIT_ARCH_X86_64),
    (LOAD, 0, 0, CALL),
    (IF_EQUAL, 0, 6, SYS_PTRACE),
    (LOAD, 0, 0, ARGUMENTS),  # the request
    (IF_EQUAL, 1, 0, PTRACE_GETREGSET),
    (IF_EQUAL, 0, 3, PTRACE_SETREGSET),
    (LOAD, 0, 0, ARGUMENTS + 16),  # which registers
    (IF_EQUAL, 0, 1, NT_X86_XSTATE),
    (RETURN, 0, 0, REFUSE),
    (RETURN, 0, 0, ALLOW),
)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_xstate() -> None:
    """Put the filter on this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in FILTER))
    program = _Program(len(FILTER), ctypes.addressof(code))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


if __name__ == "__main__":
    refuse_xstate()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - what the caller asked for
