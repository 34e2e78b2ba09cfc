"""What may lie in the way of a broker: rubble, strangers, another layout, a full file system."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import can_unshare, ended, in_a_tmpfs, needs_root, processes_of, program, shm_path
from waiting import wait_until

import shmq
from shmq._native import ffi, lib
from shmq._segment import Found, clean, create_segment, list_segments, living


@pytest.fixture
def place(broker_name: str) -> Iterator[Path]:
    """Where the segment of `broker_name` is; taken away after the test."""
    path = Path(shm_path(broker_name))
    yield path
    path.unlink(missing_ok=True)


def make_stale(name: str) -> None:
    """Leave a sound segment behind in which everybody was killed."""
    source = """
        broker = shmq.Broker(name)
        broker.create_queue("orders").publish(b"left behind")
        stats = broker.stats()
        for pid in (stats.supervisor_pid, stats.sidecar_pid, os.getpid()):
            os.kill(pid, signal.SIGKILL)
    """
    with program(source, name) as everybody:
        everybody.process.wait(30)
    wait_until(lambda: not living(name))


# ---- rubble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 30])
def test_what_a_killed_creator_left_is_taken_away(broker_name: str, place: Path, size: int) -> None:
    place.touch(0o600)
    os.truncate(place, size)
    with pytest.raises(shmq.BrokerNotRunning, match="creator that died"):
        shmq.connect(broker_name)
    with shmq.Broker(broker_name) as broker:
        assert broker.list_queues() == []


def test_a_stale_segment_is_adopted_with_its_messages(broker_name: str) -> None:
    make_stale(broker_name)
    with ended(broker_name), shmq.Broker(broker_name) as broker:
        assert broker.get_queue("orders").depth() == 1


@pytest.mark.parametrize("size", [100, 4096, 1 << 20])
def test_random_bytes_are_refused_and_left_alone(broker_name: str, place: Path, size: int) -> None:
    noise = os.urandom(size)
    place.write_bytes(noise)
    for use in (shmq.connect, shmq.Broker):
        with pytest.raises(shmq.CorruptSegment, match="shmq clean"):
            use(broker_name)
    assert place.read_bytes() == noise


def test_a_truncated_segment_is_refused(broker_name: str, place: Path) -> None:
    make_stale(broker_name)
    os.truncate(place, 1 << 20)
    for use in (shmq.connect, shmq.Broker):
        with pytest.raises(shmq.CorruptSegment, match="1,048,576 bytes"):
            use(broker_name)


def test_a_damaged_header_is_refused(broker_name: str, place: Path) -> None:
    make_stale(broker_name)
    with place.open("r+b") as file:
        file.seek(ffi.offsetof("shmq_header", "geometry") + 16)
        file.write(b"\xff" * 8)
    with pytest.raises(shmq.CorruptSegment, match="checksum"):
        shmq.connect(broker_name)


@pytest.mark.parametrize(
    ("field", "what"), [("version", "version"), ("fingerprint", "fingerprint")]
)
def test_another_layout_is_refused_with_both_values(
    broker_name: str, place: Path, field: str, what: str
) -> None:
    make_stale(broker_name)
    with place.open("r+b") as file:
        file.seek(ffi.offsetof("shmq_header", field))
        file.write((99).to_bytes(8, "little"))
    ours = lib.SHMQ_LAYOUT_VERSION if field == "version" else lib.shmq_fingerprint()
    for use in (shmq.connect, shmq.Broker):
        with pytest.raises(shmq.LayoutMismatch) as caught:
            use(broker_name)
        assert what in str(caught.value)
        assert "found" in str(caught.value)
        assert "0x63" in str(caught.value)
        assert f"{ours:#x}" in str(caught.value)


@needs_root
def test_another_users_segment_is_refused(broker_name: str, place: Path) -> None:
    make_stale(broker_name)
    os.chown(place, 12345, -1)
    for use in (shmq.connect, shmq.Broker):
        with pytest.raises(shmq.ForeignSegment, match="uid 12345"):
            use(broker_name)
    with pytest.raises(PermissionError):
        shmq.connect(broker_name)


@needs_root
@pytest.mark.skipif(
    not can_unshare("--pid", "--fork", "--mount-proc"), reason="needs pid namespaces"
)
def test_a_process_of_another_pid_namespace_is_refused(broker_name: str) -> None:
    code = f"import shmq; shmq.connect({broker_name!r})"
    with shmq.Broker(broker_name):
        there = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
            capture_output=True,
            text=True,
        )
    assert there.returncode == 1
    assert "ForeignSegment" in there.stderr
    assert "pid namespace" in there.stderr


@needs_root
@pytest.mark.skipif(
    not can_unshare("--time", "--boottime", "1000", "--fork"), reason="needs time namespaces"
)
def test_a_process_of_another_time_namespace_is_refused(broker_name: str) -> None:
    """Start times are shifted there: to it all others would look dead, and messages expired."""
    code = f"import shmq; shmq.connect({broker_name!r})"
    with shmq.Broker(broker_name) as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"held")
        with queue.subscribe() as consumer:
            delivery = consumer.get(timeout=10)
            shift = ["unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000"]
            there = subprocess.run(
                [*shift, "--fork", sys.executable, "-c", code], capture_output=True, text=True
            )
            assert there.returncode == 1
            assert "ForeignSegment" in there.stderr
            assert "time namespace" in there.stderr
            delivery.ack()


# ---- clean --------------------------------------------------------------------------------------


def test_clean_removes_only_what_nobody_lives_in(broker_names: Callable[[], str]) -> None:
    stale, used, noise = broker_names(), broker_names(), broker_names()
    names = (stale, used, noise)
    make_stale(stale)
    Path(shm_path(noise)).write_bytes(os.urandom(5000))
    with ended(used), shmq.Broker(used):
        dry = {one.name: one for one in clean(dry_run=True, names=names)}
        assert dry[stale].removable
        assert dry[noise].removable
        assert not dry[used].removable
        assert "supervisor is alive" in dry[used].reason
        assert os.path.exists(shm_path(stale))
        done = {one.name: one for one in clean(names=names)}
        assert {name for name, one in done.items() if one.removable} == {stale, noise}
        assert not os.path.exists(shm_path(stale))
        assert not os.path.exists(shm_path(noise))
        assert os.path.exists(shm_path(used))


def test_clean_spares_a_broker_without_supervisor_whose_clients_live(broker_name: str) -> None:
    from kit import kill

    with shmq.Broker(broker_name) as broker:
        for pid in processes_of(broker):
            kill(pid)
        (found,) = clean(prefix=broker_name)
        assert not found.removable
        assert f"client {os.getpid()}" in found.reason
        assert os.path.exists(shm_path(broker_name))


def test_clean_spares_what_it_cannot_read_but_somebody_maps(broker_name: str, place: Path) -> None:
    place.write_bytes(os.urandom(8192))
    source = """
        import mmap
        with open(sys.argv[2], "r+b") as file:
            there = mmap.mmap(file.fileno(), 0)
            say("mapped")
            sys.stdin.readline()
    """
    with program(source, broker_name, str(place)) as user:
        assert user.line() == "mapped"
        (found,) = clean(prefix=broker_name)
        assert not found.removable
        assert str(user.pid) in found.reason


def test_a_start_takes_abandoned_anonymous_brokers_away(broker_name: str) -> None:
    source = """
        broker = shmq.Broker()
        say(broker.name)
        stats = broker.stats()
        for pid in (stats.supervisor_pid, stats.sidecar_pid, os.getpid()):
            os.kill(pid, signal.SIGKILL)
    """
    with program(source, "x") as everybody:
        name = everybody.line()
        everybody.process.wait(30)
    with shmq.Broker(broker_name):
        wait_until(lambda: not os.path.exists(shm_path(name)), "the abandoned one to go")


# ---- room ---------------------------------------------------------------------------------------

IN_A_SMALL_TMPFS = """
import os, sys
import shmq
broker = shmq.Broker("small")
queue = broker.create_queue("orders", max_depth=1000)
n = 0
try:
    while True:
        queue.publish(os.urandom(60000))
        n += 1
except shmq.OutOfSharedMemory as error:
    assert isinstance(error, MemoryError)
    print("full", "docker run --shm-size" in str(error))
    try:
        broker.create_queue("another").publish(b"x" * 60000)
    except shmq.OutOfSharedMemory:
        print("still full")
with queue.subscribe() as consumer:
    for _ in range(5):
        delivery = consumer.get(timeout=10)
        assert len(delivery.payload) == 60000
        delivery.ack()
queue.publish(os.urandom(60000))
print("room again", n > 100)
broker.shutdown(timeout=0)
print(os.listdir("/dev/shm"))
"""

IN_A_TINY_TMPFS = """
import os
import shmq
try:
    shmq.Broker("tiny")
except shmq.OutOfSharedMemory as error:
    print("free" in str(error), "sysv" in str(error))
print(os.listdir("/dev/shm"))
"""


@needs_root
@pytest.mark.skipif(not can_unshare("--mount"), reason="needs mount namespaces")
def test_a_full_file_system_is_an_error_not_a_crash() -> None:
    out = in_a_tmpfs("16m", IN_A_SMALL_TMPFS).splitlines()
    assert out == ["full True", "still full", "room again True", "[]"]


@needs_root
@pytest.mark.skipif(not can_unshare("--mount"), reason="needs mount namespaces")
def test_a_file_system_without_room_for_a_broker_is_said_and_nothing_is_left() -> None:
    assert in_a_tmpfs("64k", IN_A_TINY_TMPFS).splitlines() == ["True True", "[]"]


# ---- the other provider -------------------------------------------------------------------------


def test_a_system_v_broker_lives_like_any_other(broker_name: str) -> None:
    from kit import kill

    with ended(broker_name), shmq.Broker(broker_name, shm="sysv") as broker:
        assert not os.path.exists(shm_path(broker_name))
        assert Found(broker_name, "sysv") in list_segments()
        queue = broker.create_queue("orders")
        queue.publish(b"x" * 100_000)
        source = """
            with shmq.connect(name).get_queue("orders").subscribe() as consumer:
                delivery = consumer.get(timeout=20)
                print(len(delivery.payload))
                delivery.ack()
        """
        with program(source, broker_name) as consumer:
            assert consumer.finish() == (0, "100000\n", "")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                queue.publish(b"from the child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert queue.depth() == 1
        with pytest.raises(shmq.BrokerExists):
            shmq.Broker(broker_name)
        with pytest.raises(shmq.BrokerExists):
            shmq.Broker(broker_name, shm="sysv")
        for old in processes_of(broker):
            kill(old)
        broker.start()
        assert processes_of(broker)
        assert queue.depth() == 1
    assert Found(broker_name, "sysv") not in list_segments()


def test_a_stale_system_v_segment_is_cleaned(broker_name: str) -> None:
    source = """
        broker = shmq.Broker(name, shm="sysv")
        stats = broker.stats()
        for pid in (stats.supervisor_pid, stats.sidecar_pid, os.getpid()):
            os.kill(pid, signal.SIGKILL)
    """
    with program(source, broker_name) as everybody:
        everybody.process.wait(30)
    wait_until(lambda: not living(broker_name))
    (found,) = clean(prefix=broker_name)
    assert found.removable
    assert list_segments().count(Found(broker_name, "sysv")) == 0


def test_creating_touches_little_memory(broker_name: str) -> None:
    config = ffi.new("shmq_config *")
    config.memory_limit = 1 << 40
    config.max_message = 1 << 20
    for provider in ("posix", "sysv"):
        config.provider = lib.SHMQ_POSIX if provider == "posix" else lib.SHMQ_SYSV
        segment, adopted = create_segment(broker_name, provider, config)
        try:
            assert not adopted
            assert segment.header().memory_limit == 1 << 40
            assert segment.size > 1 << 40
            if provider == "posix":
                assert os.stat(shm_path(broker_name)).st_blocks * 512 < 1 << 20
        finally:
            segment.unlink()
            segment.close()


@pytest.mark.slow
def test_all_of_this_holds_for_system_v_segments_as_well() -> None:
    here = Path(__file__).parent
    files = ("01_life", "02_queues", "03_deaths", "06_quiet", "07_sidecar")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", *(here / f"test_{f}.py" for f in files)],
        env={**os.environ, "SHMQ_SHM": "sysv"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
