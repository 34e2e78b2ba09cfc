"""A seccomp filter that refuses pidfds, as containers' filters and gVisor do; for programs of tests."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
PIDFD_SEND_SIGNAL, PIDFD_OPEN = 424, 434  # the same on every architecture


class Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32),
    )  # fmt: skip


class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter)))


def pidfds(number: int) -> None:
    """Have pidfd_open and pidfd_send_signal fail with ``number`` here and in all children; exits with 77 if that cannot be."""
    steps = (Filter * 5)(
        Filter(LOAD, 0, 0, 0),  # the number of the system call
        Filter(JUMP_IF_EQUAL, 2, 0, PIDFD_OPEN),
        Filter(JUMP_IF_EQUAL, 1, 0, PIDFD_SEND_SIGNAL),
        Filter(RETURN, 0, 0, RET_ALLOW),
        Filter(RETURN, 0, 0, RET_ERRNO | number),
    )
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    program = Program(5, steps)
    if (
        platform.machine() not in ("x86_64", "aarch64")
        or prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        or prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0) != 0
    ):
        os._exit(77)
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno == number:
            return
    os._exit(77)


EPERM, ENOSYS = errno.EPERM, errno.ENOSYS
