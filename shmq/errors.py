"""Everything that shmq raises, under one root.

A text says what was found, what was expected and what to do next; `explain` puts the three
together, so that no text forgets one. Exceptions carry nothing but their text: they pickle, and
they mean the same in the process that catches them.

`RESULTS` is the one table from a result code of the C core to an exception. It is keyed by the
code's *name* in native/include/shmq.h, so the numbers are written only there.
"""

from __future__ import annotations

import queue

__all__ = [
    "RESULTS",
    "BrokerExists",
    "BrokerNotRunning",
    "CorruptSegment",
    "Detached",
    "ForeignSegment",
    "InvalidOption",
    "InvalidOptionType",
    "LayoutMismatch",
    "LimitReached",
    "MessageExpired",
    "MessageTooLarge",
    "MissingPackage",
    "OptionsMismatch",
    "OutOfSharedMemory",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "QueueNotFound",
    "ShmqError",
    "StaleDelivery",
    "StorageError",
    "TopicNotFound",
    "explain",
]


class ShmqError(Exception):
    """Root of all exceptions of shmq; raised itself only for what should never happen."""


class QueueFull(ShmqError, queue.Full):
    """No room in the queue within the time given. Also a `queue.Full`."""


class QueueEmpty(ShmqError, queue.Empty):
    """No message within the time given. Also a `queue.Empty`."""


class QueueClosed(ShmqError):
    """The queue was shut down: it takes nothing in, or is shut down and drained."""


class _NotFound(ShmqError, KeyError):
    # KeyError shows the repr of its argument, which makes a sentence unreadable.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class QueueNotFound(_NotFound):
    """The broker has no queue of that name (any more). Also a `KeyError`."""


class TopicNotFound(_NotFound):
    """The broker has no topic of that name (any more). Also a `KeyError`."""


class BrokerExists(ShmqError):
    """A living supervisor already serves a broker of that name."""


class BrokerNotRunning(ShmqError):
    """There is no broker of that name for this user on this host."""


class OptionsMismatch(ShmqError):
    """The queue exists with other options than the ones asked for."""


class MessageTooLarge(ShmqError, ValueError):
    """The payload or the headers are above the broker's limit. Also a `ValueError`."""


class MessageExpired(ShmqError):
    """A publish whose message would be past its time to live before it is due."""


class StaleDelivery(ShmqError):
    """The lease has moved on: settled before, expired, purged, or of another process."""


class OutOfSharedMemory(ShmqError, MemoryError):
    """The broker's memory limit is reached, or the memory behind it is used up."""


class LayoutMismatch(ShmqError):
    """The segment was made by a build of shmq with another memory layout."""


class CorruptSegment(ShmqError):
    """The segment holds what no build of shmq can have written."""


class ForeignSegment(ShmqError, PermissionError):
    """The segment belongs to another user, or to another pid or time namespace."""


class StorageError(ShmqError):
    """Storage cannot be used as asked: a medium that fails, or one this version does not have."""


class InvalidOption(ShmqError, ValueError):
    """An option or setting has a value that it cannot have. Also a `ValueError`."""


class InvalidOptionType(InvalidOption, TypeError):
    """An option is unknown or has a value of the wrong type. Also a `TypeError`."""


class MissingPackage(ShmqError, ImportError):
    """An optional package is not installed. Also an `ImportError`."""


class LimitReached(ShmqError):
    """A fixed number of places is used up: processes, queues, unsettled deliveries.

    Or the system has no more descriptors, processes or threads to give.
    """


class Detached(ShmqError, ValueError):
    """This process has closed its connection to the broker. Also a `ValueError`."""


def printable(text: str) -> str:
    """Return ``text`` with what is no visible character or space written as an escape.

    Names come from whoever made them, and shared memory may hold anything: raw, they could forge
    lines, move the cursor or turn the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def explain(subject: str, found: object, expected: object, advice: str) -> str:
    """Return ``subject: found …, expected …; advice``."""
    return f"{subject}: found {found}, expected {expected}; {advice}"


# Name of the result in `enum shmq_rc` -> exception, what was found, what was expected, what to do.
RESULTS: dict[str, tuple[type[ShmqError], str, str, str]] = {
    "SHMQ_EMPTY": (QueueEmpty, "no message", "one", "wait longer (timeout=), or publish one"),
    "SHMQ_FULL": (
        QueueFull,
        "max_depth or max_bytes reached",
        "room",
        "add consumers, wait longer (timeout=) or raise the queue's max_depth",
    ),
    "SHMQ_TIMEOUT": (QueueEmpty, "nothing within the timeout", "a message", "wait longer"),
    "SHMQ_CLOSED": (
        QueueClosed,
        "a queue that was shut down",
        "an open one",
        "delete_queue() and create_queue() start it afresh",
    ),
    "SHMQ_INTR": (ShmqError, "a signal", "an undisturbed wait", "call again"),
    "SHMQ_STALE": (
        StaleDelivery,
        "a lease that has moved on (settled before, expired at ack_timeout, or purged)",
        "one that is still held",
        "do not settle twice; touch() a delivery that takes long, or raise ack_timeout",
    ),
    "SHMQ_GONE": (
        QueueNotFound,
        "a queue that was deleted",
        "a living one",
        "create_queue() makes it anew",
    ),
    "SHMQ_BUSY": (
        ShmqError,
        "another living process at the same work",
        "none",
        "try again in a moment",
    ),
    "SHMQ_ALIVE": (ShmqError, "a living process", "a dead one", "leave it alone"),
    "SHMQ_E_NOMEM": (
        OutOfSharedMemory,
        "no free shared memory",
        "enough for this message",
        (
            "let consumers catch up, raise memory_limit, or enlarge /dev/shm "
            "(docker run --shm-size=1g; or shm='sysv', which /dev/shm does not bound)"
        ),
    ),
    "SHMQ_E_CORRUPT": (
        CorruptSegment,
        "an impossible value",
        "a sound segment",
        "stop the processes that use it and run `shmq clean`",
    ),
    "SHMQ_E_LAYOUT": (
        LayoutMismatch,
        "another memory layout",
        "the one of this build",
        "use the same version of shmq everywhere, or `shmq down` with the old one first",
    ),
    "SHMQ_E_FORKED": (
        Detached,
        "a connection inherited over fork",
        "one of this process",
        "connect again in the child",
    ),
    "SHMQ_E_OWNERS": (
        LimitReached,
        "all places for attached processes in use",
        "a free one",
        (
            "close() brokers that are not needed (threads share one place), or start the broker with a "
            "larger max_processes"
        ),
    ),
    "SHMQ_E_QUEUES": (
        LimitReached,
        "all places for queues, or for what they can hold, in use",
        "a free one",
        (
            "delete_queue() what is not needed, give large ones a smaller max_depth, or start the broker "
            "with a larger max_queues or memory_limit"
        ),
    ),
    "SHMQ_E_EXISTS": (OptionsMismatch, "a queue of that name", "none", "use get_queue()"),
    "SHMQ_E_NOTFOUND": (
        QueueNotFound,
        "no queue of that name",
        "an existing one",
        "create_queue() makes it; list_queues() shows what is there",
    ),
    "SHMQ_E_ARG": (InvalidOption, "an argument out of range", "a valid one", "see the docs"),
    "SHMQ_E_SYS": (
        ShmqError,
        "a failed system call",
        "success",
        "look at the error number; limits (ulimit -a) are the usual cause",
    ),
    "SHMQ_E_TOOBIG": (
        MessageTooLarge,
        "a message above the broker's max_message_size",
        "a smaller one",
        "split it, or start the broker with a larger max_message_size",
    ),
    "SHMQ_E_HELD": (
        LimitReached,
        "65,536 unsettled deliveries in this process",
        "fewer",
        "settle deliveries before taking more (ack, nack or reject)",
    ),
    "SHMQ_E_DETACHED": (
        Detached,
        "a closed connection to the broker",
        "an open one",
        "connect again: shmq.connect(name)",
    ),
    "SHMQ_E_PIDNS": (
        ForeignSegment,
        "a segment made in another pid or time namespace",
        "one of these namespaces",
        "run all processes of a broker in one pid and one time namespace (docker: --pid=container:…)",
    ),
}
