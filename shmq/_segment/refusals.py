"""What may be wrong with a segment, as errors that say what to do."""

from __future__ import annotations

import errno
import os
import resource
from typing import Any

from shmq._descriptors import limit_reached
from shmq._native import ffi, lib
from shmq._segment.names import DEV_SHM, posix_name
from shmq.errors import (
    BrokerExists,
    CorruptSegment,
    ForeignSegment,
    LayoutMismatch,
    OutOfSharedMemory,
    ShmqError,
    StorageError,
    explain,
)


def refusal(name: str, provider: str, rc: int, detail: Any, size: int) -> ShmqError:
    """Return what `shmq_check_header` found, as the error that it is."""
    what = ffi.string(lib.shmq_what(detail.what)).decode()
    where = (
        f"{DEV_SHM}{posix_name(name)}" if provider == "posix" else f"System V segment of {name!r}"
    )
    subject = f"broker {name!r} ({where})"
    clean = f"`shmq clean` removes it when nobody uses it, or choose another name than {name!r}"
    if (
        rc == lib.SHMQ_E_SYS
    ):  # the header was fine so far, but what it is compared with could not be read
        return limit_reached(subject, f"{os.strerror(detail.sys_errno)} (errno {detail.sys_errno})")
    if what == "owner uid":
        return ForeignSegment(
            explain(
                subject,
                f"one that uid {detail.found} has made",
                f"one of uid {detail.expected}, which this process has now",
                "use it in processes of the user who has made it, or start another broker as this one",
            )
        )
    if rc == lib.SHMQ_E_PIDNS:
        return ForeignSegment(
            explain(
                subject,
                f"{what} {detail.found}",
                f"this one, {detail.expected}",
                f"run all processes of a broker in one {what}"
                + (" (docker: --pid=container:…)" if what == "pid namespace" else ""),
            )
        )
    if rc == lib.SHMQ_E_LAYOUT and what != "magic":
        return LayoutMismatch(
            explain(
                subject,
                f"{what} {detail.found:#x}",
                f"{detail.expected:#x}",
                "use the version of shmq that made it, or stop its processes and run `shmq clean`",
            )
        )
    if what == "size":
        return CorruptSegment(explain(subject, f"{size:,} bytes", f"{detail.expected:,}", clean))
    return CorruptSegment(
        explain(subject, f"{what} {detail.found:#x}", f"{detail.expected:#x}", clean)
    )


def no_room(name: str, error: OSError) -> OutOfSharedMemory:
    """Return the error of a segment whose first pages find no memory."""
    try:
        space = os.statvfs(DEV_SHM)
        free = f"{space.f_bavail * space.f_frsize:,} bytes free in {DEV_SHM}"
    except OSError:
        free = "no usable /dev/shm"
    if error.errno == errno.EFBIG:
        return OutOfSharedMemory(
            explain(
                f"broker {name!r}",
                f"{error.strerror}, which `ulimit -f` forbids",
                "room for a sparse file of that size",
                "raise `ulimit -f`, or use shm='sysv'",
            )
        )
    return OutOfSharedMemory(
        explain(
            f"broker {name!r}",
            f"{error.strerror}, {free}",
            "room for its first pages",
            "enlarge /dev/shm (docker run --shm-size=1g), or use shm='sysv'",
        )
    )


def no_space(name: str, size: int) -> StorageError:
    """Return the error of a segment that does not fit into the address space of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = soft != resource.RLIM_INFINITY
    return StorageError(
        explain(
            f"segment of broker {name!r}",
            f"an address space of {soft:,} bytes (`ulimit -v`)" if limited else "no room to map it",
            f"{size:,} bytes of it for this segment, beside what the program needs",
            "start the broker with a smaller memory_limit, max_queues or max_processes"
            + (", or raise `ulimit -v`" if limited else ""),
        )
    )


def raise_for(rc: int, ctx: Any, name: str) -> None:
    """Raise what the core could not do with the segment that is mapped, or to be mapped, into ``ctx``."""
    if rc == lib.SHMQ_OK:
        return
    detail = ffi.new("shmq_detail *")
    lib.shmq_ctx_detail(ctx, detail)
    if rc == lib.SHMQ_E_NOMEM:
        raise no_room(name, OSError(detail.sys_errno, os.strerror(detail.sys_errno)))
    if rc == lib.SHMQ_E_SYS and detail.sys_errno in (errno.EMFILE, errno.ENFILE):
        raise limit_reached(f"segment of broker {name!r}", os.strerror(detail.sys_errno))
    what = ffi.string(lib.shmq_what(detail.what)).decode()
    if what == "mapping" and detail.sys_errno == errno.ENOMEM:
        raise no_space(name, int(detail.expected))
    reason = os.strerror(detail.sys_errno) if detail.sys_errno else f"{what} {detail.found:#x}"
    kind = CorruptSegment if rc == lib.SHMQ_E_CORRUPT else StorageError
    raise kind(
        explain(
            f"segment of broker {name!r}",
            reason,
            "a mapping of it",
            "look at `ulimit -a`",
        )
    )


def exists(name: str) -> BrokerExists:
    """Return the error of one who would serve a broker that is served."""
    return BrokerExists(
        explain(
            f"broker {name!r}",
            "a living supervisor",
            "none",
            f"use shmq.connect({name!r}), or stop it first: `shmq down {name}`",
        )
    )
