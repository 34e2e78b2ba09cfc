"""A broker's settings: keyword > environment SHMQ_* > TOML file > default.

The file is the one named by ``config=`` or SHMQ_CONFIG, else ``shmq.toml`` in the working directory
if there is one. Its keys are the keywords, at the top or in a table ``[shmq]``.

Who can write the file decides where messages are kept and how many of them, so it has to be this
user's or root's. A file that was named may be any such file that not everybody may write. One that is
only lying there may be written by its owner alone, and so may its folder; or the folder is a sticky
one, such as /tmp, where nobody else can put a file of ours or take ours away, and the file has one
name and is no link.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from shmq._descriptors import scarce
from shmq._native import lib
from shmq._segment.space import default_limits
from shmq._values import (
    nearest,
    parse_choice,
    parse_count,
    parse_duration,
    parse_size,
    reject_unknown,
    to_ns,
)
from shmq.errors import InvalidOption, InvalidOptionType, StorageError, explain
from shmq.options import MAX_DEPTH, MAX_RETRIES

STORAGES = ("memory", "disk", "hybrid")
PROVIDERS = ("posix", "sysv")
DEFAULT_FILE = "shmq.toml"
SMALLEST_MEMORY = 1 << 20
LEAST_PROCESSES = 4  # supervisor, sidecar, and two that have something to say to each other
LIMITS = ("memory_limit", "max_queues", "max_processes")
LARGEST_MESSAGE = 1 << 30


def ram_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Settings:
    """Times in seconds, sizes in bytes; texts such as "24h" and "1MB" are accepted throughout."""

    storage: str = "memory"
    data_dir: str = "./data"
    default_ttl: float | None = 86400.0
    max_message_size: int = 1 << 20
    max_queue_depth: int = 100_000
    max_retries: int = 3
    listen_addr: str = "127.0.0.1:5672"
    metrics: bool = True
    metrics_interval: float = 1.0
    shm: str = "posix"
    memory_limit: int = field(default_factory=ram_bytes)
    """bytes of memory for payloads, those of all size classes together"""
    max_queues: int = lib.SHMQ_QUEUES
    """queues, topics, subscriptions and members of groups at a time"""
    max_processes: int = lib.SHMQ_OWNERS
    """processes attached at a time, supervisor and sidecar included"""
    _given: ClassVar[frozenset[str]] = frozenset()  # those that some source had

    def __post_init__(self) -> None:
        for name, parse in PARSERS.items():
            object.__setattr__(self, name, parse(getattr(self, name), name))
        if self.storage != "memory":
            raise StorageError(
                explain(
                    "storage",
                    f"{self.storage!r}",
                    "'memory'",
                    "this version keeps messages in shared memory only",
                )
            )
        if self.max_message_size > self.memory_limit:
            raise InvalidOption(
                explain(
                    "max_message_size",
                    f"{self.max_message_size:,} bytes",
                    f"at most memory_limit, {self.memory_limit:,}",
                    "raise memory_limit",
                )
            )

    @classmethod
    @scarce("settings")  # of descriptors, for a file of them or a module that is imported late
    def load(
        cls,
        keywords: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> Settings:
        """Return the settings that follow from all four sources."""
        keywords = {} if keywords is None else keywords
        environ = os.environ if environ is None else environ
        names = [setting.name for setting in fields(cls)]
        reject_unknown("setting", keywords, names)
        merged: dict[str, Any] = {}
        path = config if config is not None else environ.get("SHMQ_CONFIG")
        if path:
            merged.update(read_file(os.fspath(path), names))
        elif os.path.lexists(DEFAULT_FILE):
            merged.update(read_file(DEFAULT_FILE, names, named=False))
        for name in names:
            text = environ.get(f"SHMQ_{name.upper()}")
            if text is not None and text != "":
                try:
                    PARSERS[name](text, name)
                except InvalidOption as error:
                    raise type(error)(
                        f"environment variable SHMQ_{name.upper()}, {error}"
                    ) from None
                merged[name] = text
        _refuse_misspelt(environ, names)
        merged.update(keywords)
        settings = cls(**merged)
        object.__setattr__(settings, "_given", frozenset(merged))
        return settings.fitted(settings.max_message_size)

    def fitted(self, max_message: int) -> Settings:
        """Return these, for messages up to that size, where address space is short (`ulimit -v`).

        Limits that were not given are then as small as it takes.
        """
        asked = {name: getattr(self, name) for name in LIMITS if name in self._given}
        limits = default_limits(self.memory_limit, max_message, asked)
        found = replace(
            self,
            memory_limit=max(limits.memory, self.max_message_size),
            max_queues=limits.queues,
            max_processes=limits.processes,
        )
        object.__setattr__(found, "_given", self._given)
        return found

    def for_supervisor(self) -> dict[str, object]:
        """Return what a supervisor is started with."""
        return {
            "shm": self.shm,
            "memory_limit": self.memory_limit,
            "max_queues": self.max_queues,
            "max_processes": self.max_processes,
            "max_message": self.max_message_size,
            "ttl_ns": to_ns(self.default_ttl),
            "user_word": pack_defaults(
                self.max_queue_depth, self.max_retries, self.metrics, self.metrics_interval
            ),
        }

    def queue_defaults(self) -> dict[str, Any]:
        """Return the queue options that these settings stand for."""
        return {
            "max_depth": self.max_queue_depth,
            "ttl": self.default_ttl,
            "max_retries": self.max_retries,
        }


OTHER_VARIABLES = (
    "CONFIG", "DEBUG", "NO_ACCEL", "BUILD_NO_ACCEL", "REQUIRE_ACCEL", "CFLAGS", "LDFLAGS",
)  # fmt: skip


def _refuse_misspelt(environ: Mapping[str, str], names: list[str]) -> None:
    # Somebody else's SHMQ_ variable is none of our business; one a letter away from ours is.
    known = {name.upper() for name in names} | set(OTHER_VARIABLES)
    for variable, value in environ.items():
        word = variable.removeprefix("SHMQ_")
        if word == variable or word in known or not value:
            continue
        close = nearest(word.lower(), names, cutoff=0.85)
        if close:
            raise InvalidOptionType(
                explain(
                    f"environment variable {variable}",
                    "an unknown name",
                    "a known one",
                    f"did you mean SHMQ_{close.upper()}?",
                )
            )


def read_file(path: str, names: list[str], named: bool = True) -> dict[str, Any]:
    """Return the settings in the TOML file at ``path``, which was ``named`` or found in the cwd."""
    load = _toml_loads()
    if load is None:
        raise InvalidOption(
            explain(
                f"settings file {path}",
                f"Python {sys.version_info[0]}.{sys.version_info[1]} without `tomli`",
                "a TOML reader",
                "pip install tomli, or use Python 3.11 or newer",
            )
        )
    try:
        with open(path, encoding="utf-8", opener=_open_named if named else _open_found) as file:
            table = load(file.read())
    except InvalidOption:
        raise
    except OSError as error:
        raise InvalidOption(
            explain(f"settings file {path}", error.strerror, "a readable file", "correct its path")
        ) from error
    except ValueError as error:
        raise InvalidOption(
            explain(f"settings file {path}", str(error), "valid TOML", "correct it")
        ) from error
    table = table.get("shmq", table)
    if not isinstance(table, dict):
        raise InvalidOptionType(
            explain(f"settings file {path}", f"shmq = {table!r}", "a table", "write [shmq]")
        )
    try:
        reject_unknown("setting", table, names)
        for name, value in table.items():
            PARSERS[name](value, name)
    except InvalidOption as error:
        raise type(error)(f"settings file {path}, {error}") from None
    return dict(table)


# ---- whose file it is -----------------------------------------------------------------------------
# Judged by the open file, so that what is read is what was looked at.


def _open_named(path: str, flags: int) -> int:
    fd = os.open(path, flags)
    try:
        status = os.fstat(fd)
        # /dev/null is a way to name no file. A pipe of ours comes from `--config <(…)`.
        if (
            not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3)
        ) and not stat.S_ISDIR(status.st_mode):
            _check_owner(path, status, 0o002, "by everybody")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_found(path: str, flags: int) -> int:
    # Without waiting: it may be a pipe that somebody has put there.
    fd = os.open(path, flags | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(path, "something else", "a regular file")
        _check_owner(path, status, 0o022, "by others")
        folder = os.stat(os.path.dirname(path) or ".")
        if folder.st_mode & 0o022 and folder.st_mode & stat.S_ISVTX:
            entry = os.lstat(path)
            same = (entry.st_dev, entry.st_ino) == (status.st_dev, status.st_ino)
            if not same or status.st_nlink != 1:
                raise _refuse(path, "a link, in a folder that others may write to", "a file")
        else:
            _check_owner(f"the folder of {path}", folder, 0o022, "by others")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_owner(what: str, status: os.stat_result, writable: int, whom: str) -> None:
    me = os.geteuid()
    if status.st_uid not in (me, 0):
        raise _refuse(what, f"owner uid {status.st_uid}", f"uid {me} or root")
    mode = stat.S_IMODE(status.st_mode)
    if mode & writable:
        raise _refuse(what, f"mode {mode:04o}, writable {whom}", "one that is not")


def _refuse(what: str, found: str, expected: str) -> InvalidOption:
    return InvalidOption(
        explain(
            f"settings file {what}",
            found,
            expected,
            "correct it (chown, chmod go-w), work in another folder, or name a file of yours "
            "(config=, SHMQ_CONFIG; /dev/null for none)",
        )
    )


def _toml_loads() -> Callable[[str], dict[str, Any]] | None:
    for module in ("tomllib", "tomli"):
        try:
            loads: Callable[[str], dict[str, Any]] = importlib.import_module(module).loads
        except ImportError:
            continue
        return loads
    return None


# ---- one parser per setting: (value, name) -> value -----------------------------------------------


def _ttl(value: object, what: str) -> float | None:
    seconds = parse_duration(value, what)
    if seconds == 0:
        raise InvalidOption(explain(what, "0", "more than 0 seconds", "None means never"))
    return seconds


def _interval(value: object, what: str) -> float:
    seconds = parse_duration(value, what)
    if not seconds:
        raise InvalidOption(explain(what, f"{value!r}", "more than 0 seconds", "give an interval"))
    return seconds


def _text(value: object, what: str) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidOptionType(explain(what, f"{value!r}", "a text", "give one"))
    return value


def _switch(value: object, what: str) -> bool:
    words = {"1": True, "on": True, "true": True, "yes": True,
             "0": False, "off": False, "false": False, "no": False}  # fmt: skip
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise InvalidOptionType(explain(what, f"{value!r}", "on or off", "give one of them"))


def _message_size(value: object, what: str) -> int:
    size = parse_size(value, what)
    if not 1 <= size <= LARGEST_MESSAGE:
        raise InvalidOption(explain(what, f"{value!r}", "1 byte to 1 GiB", "choose one in between"))
    return size


def _memory(value: object, what: str) -> int:
    size = parse_size(value, what)
    if size < SMALLEST_MEMORY:
        raise InvalidOption(explain(what, f"{value!r}", "1 MiB or more", "raise it"))
    return size


PARSERS: dict[str, Callable[[object, str], Any]] = {
    "storage": lambda value, what: parse_choice(value, what, STORAGES),
    "data_dir": _text,
    "default_ttl": _ttl,
    "max_message_size": _message_size,
    "max_queue_depth": lambda value, what: parse_count(value, what, 1, MAX_DEPTH),
    "max_retries": lambda value, what: parse_count(value, what, 0, MAX_RETRIES),
    "listen_addr": _text,
    "metrics": _switch,
    "metrics_interval": _interval,
    "shm": lambda value, what: parse_choice(value, what, PROVIDERS),
    "memory_limit": _memory,
    "max_queues": lambda value, what: parse_count(value, what, 1, lib.SHMQ_QUEUES),
    "max_processes": lambda value, what: parse_count(value, what, LEAST_PROCESSES, lib.SHMQ_OWNERS),
}


# ---- what of it lives in the segment --------------------------------------------------------------
# A queue gets the broker's defaults whichever process creates it. Times to live and sizes are in the
# header's geometry; depth and retries are packed into its user word:
#   bit 63 = set | 62 = no metrics | metrics_interval:14, in 10 ms | retries:16 | depth:32


def pack_defaults(
    max_queue_depth: int, max_retries: int, metrics: bool = True, metrics_interval: float = 1.0
) -> int:
    """Return the user word for these."""
    ticks = min(0x3FFF, max(1, round(metrics_interval * 100)))
    off = 0 if metrics else 1 << 62
    return 1 << 63 | off | ticks << 48 | max_retries << 32 | max_queue_depth


def unpack_defaults(word: int) -> tuple[int, int] | None:
    """Return (max_queue_depth, max_retries); None when the word was never set, or cannot have been."""
    depth, retries = word & 0xFFFFFFFF, word >> 32 & 0xFFFF
    if not word >> 63 or not 1 <= depth <= MAX_DEPTH or retries > MAX_RETRIES:
        return None
    return depth, retries


def unpack_metrics(word: int) -> tuple[bool, float]:
    """Return (metrics, metrics_interval) of a broker."""
    if not word >> 63:
        return True, 1.0
    return not word >> 62 & 1, max(1, word >> 48 & 0x3FFF) / 100
