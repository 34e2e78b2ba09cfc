"""What other users, other namespaces and other people's folders can do to a broker: nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import (
    can_unshare,
    cli,
    ended,
    in_a_tmpfs,
    kill,
    needs_root,
    processes_of,
    program,
    shm_path,
)
from waiting import wait_until

import shmq
from shmq._native import ffi, lib
from shmq._segment import access, clean, cleaning, create_segment, list_segments, open_segment, sysv
from shmq._segment.names import sysv_keys

ROOT = Path(__file__).resolve().parents[2]
STRANGER = 54321
pid_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not can_unshare("--pid", "--fork"), reason="needs pid namespaces"
)


@contextlib.contextmanager
def child(work: Callable[[], None], stays: bool = False) -> Iterator[None]:
    """Do ``work`` in a forked child before the block; it is killed after the block if it ``stays``."""
    done, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(said, b"+")
            while stays:
                signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(said)
    try:
        assert os.read(done, 1) == b"+"
        yield
    finally:
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- System V segments that strangers have made --------------------------------------------------


def plant(name: str, victim: int = 0) -> None:
    """As a stranger, make a segment for ``name`` and give it away; its owner is ``victim`` then.

    The stranger keeps what a creator has for good, write access, and goes on to use it. What it
    looks like is left to the victim's uid, which spares this test the forging of a header.
    """
    import sysv_ipc

    config = ffi.new("shmq_config *")
    config.memory_limit, config.max_message, config.provider = 16 << 20, 1 << 16, lib.SHMQ_SYSV
    os.setresuid(victim, victim, 0)
    key = next(sysv_keys(name))
    os.seteuid(0)
    os.seteuid(STRANGER)
    size = lib.shmq_plan(config, ffi.new("shmq_geometry *"))
    memory = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX | sysv.SHM_NORESERVE, 0o400, size)
    memory.mode = 0o600
    memory.detach()
    memory.attach()
    os.seteuid(0)
    memory.uid = victim
    os.setresuid(victim, victim, 0)
    segment = sysv.SysvSegment(name, memory, key)
    access._format(segment, config, 0)
    os.seteuid(0)
    os.seteuid(STRANGER)  # from here on with the rights of the creator alone
    assert memory.uid == victim
    assert memory.cuid == STRANGER
    memory.write(b"owned by the creator", size - 4096)


def take_away(*keys: int) -> None:
    import sysv_ipc

    for row in sysv._table():
        if row["key"] in keys:
            with contextlib.suppress(sysv_ipc.Error):
                sysv_ipc.remove_shared_memory(row["shmid"])


@pytest.fixture
def given_away(broker_name: str) -> Iterator[str]:
    """The name of a broker under whose key a stranger has planted a segment, which he still uses."""
    try:
        with child(lambda: plant(broker_name), stays=True):
            yield broker_name
    finally:
        take_away(*sysv_keys(broker_name))


@needs_root
def test_a_segment_that_a_stranger_made_and_gave_away_is_nobodys_broker(given_away: str) -> None:
    name = given_away
    assert any(row["cuid"] == STRANGER and row["uid"] == 0 for row in sysv._table())
    with pytest.raises(shmq.BrokerNotRunning):
        shmq.connect(name)
    assert name not in {found.name for found in list_segments()}
    assert cli("status", name)[0] == 3
    assert name not in cli("ls")[1]
    assert clean(names=[name]) == []
    with ended(name):
        with shmq.Broker(name) as broker:
            assert os.path.exists(shm_path(name))
            assert broker.list_queues() == []
        assert cli("up", name, "--detach")[0] == 0
        assert os.path.exists(shm_path(name))


@needs_root
def test_a_system_v_broker_finds_a_place_beside_a_strangers_segment(given_away: str) -> None:
    name = given_away
    with ended(name), shmq.Broker(name, shm="sysv") as broker:
        queue = broker.create_queue("orders")
        queue.publish(b"ours")
        assert shmq.connect(name).get_queue("orders").depth() == 1
        import sysv_ipc

        (row,) = [row for row in sysv._table() if row["key"] == next(sysv_keys(name))]
        sysv_ipc.remove_shared_memory(row["shmid"])
        source = "print(shmq.connect(name).get_queue('orders').depth())"
        with program(source, name) as other:  # also when the place before it is empty again
            assert other.finish() == (0, "1\n", "")
        with pytest.raises(shmq.BrokerExists):
            shmq.Broker(name, shm="sysv")
        for pid in processes_of(broker):
            kill(pid)
        broker.start()
        assert queue.depth() == 1
    assert not [row for row in sysv._table() if row["key"] in set(sysv_keys(name))]


@needs_root
def test_another_user_who_is_no_root_is_not_fooled_either(broker_name: str) -> None:
    def victim() -> None:
        os.setresuid(12345, 12345, 12345)
        with pytest.raises(shmq.BrokerNotRunning):
            open_segment(broker_name)
        assert broker_name not in {found.name for found in list_segments()}
        config = ffi.new("shmq_config *")
        config.memory_limit, config.max_message = 16 << 20, 1 << 16
        for provider in ("posix", "sysv"):
            segment, adopted = create_segment(broker_name, provider, config)
            assert not adopted
            assert segment.provider == provider
            segment.unlink()
            segment.close()

    def clean_up() -> None:
        os.seteuid(12345)
        keys = list(sysv_keys(broker_name))
        os.seteuid(0)
        take_away(*keys)

    try:
        with child(lambda: plant(broker_name, victim=12345), stays=True), child(victim):
            pass
    finally:
        with child(clean_up):
            pass


@needs_root
def test_all_keys_taken_by_strangers_is_an_error_that_says_so(broker_name: str) -> None:
    import sysv_ipc

    def squat() -> None:
        keys = list(sysv_keys(broker_name))
        os.setresuid(STRANGER, STRANGER, STRANGER)
        for key in keys:
            sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, 0o666, 8192).detach()

    try:
        with child(squat):
            pass
        with pytest.raises(shmq.ForeignSegment, match="ipcs -mc"):
            shmq.Broker(broker_name, shm="sysv")
        with pytest.raises(shmq.BrokerNotRunning):
            shmq.connect(broker_name)
    finally:
        take_away(*sysv_keys(broker_name))


def test_a_segment_of_ours_that_others_may_open_is_not_used(broker_name: str) -> None:
    import sysv_ipc

    key = next(sysv_keys(broker_name))
    memory = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, 0o666, 1 << 16)
    try:
        with pytest.raises(shmq.BrokerNotRunning):
            shmq.connect(broker_name)
        with shmq.Broker(broker_name, shm="sysv") as broker:
            broker.create_queue("orders").publish(b"x")
    finally:
        memory.detach()
        memory.remove()


def test_what_a_maker_left_that_was_killed_at_once_is_in_nobodys_way(broker_name: str) -> None:
    import sysv_ipc

    key = next(sysv_keys(broker_name))
    with child(lambda: sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, sysv.YOUNG, 1 << 16).detach()):
        pass
    with shmq.Broker(broker_name, shm="sysv") as broker:
        broker.create_queue("orders").publish(b"x")
    assert key not in {row["key"] for row in sysv._table()}


def test_the_claim_of_a_system_v_broker_cannot_be_taken_by_its_name(broker_name: str) -> None:
    """It was an abstract socket once: a name that anybody on the machine may have."""
    hashed = 0xCBF29CE484222325
    for byte in f"{os.getuid()}:{broker_name}".encode():
        hashed = (hashed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    squatter = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    squatter.bind(f"\0shmq.{os.getuid()}.{hashed:016x}")
    with squatter, ended(broker_name), shmq.Broker(broker_name, shm="sysv") as broker:
        kill(processes_of(broker)[0])
        broker.start()
        with pytest.raises(shmq.BrokerExists):
            shmq.Broker(broker_name, shm="sysv")


# ---- things in /dev/shm --------------------------------------------------------------------------


def make_directory(path: str) -> None:
    os.mkdir(path)


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(path)


def make_dangling_link(path: str) -> None:
    os.symlink("/nowhere/at/all", path)


def make_link_to_a_file_of_ours(path: str) -> None:
    Path(f"{path}-target").touch(0o600)
    os.symlink(f"{path}-target", path)


def make_second_name(path: str) -> None:
    Path(f"{path}-target").touch(0o600)
    os.link(f"{path}-target", path)


def make_device(path: str) -> None:
    os.mknod(path, 0o20600, os.makedev(1, 3))


def make_file_of_another(path: str) -> None:
    Path(path).write_bytes(bytes(8192))
    os.chown(path, STRANGER, STRANGER)
    os.chmod(path, 0o666)


def make_unreadable_file(path: str) -> None:
    Path(path).touch(0)


THINGS = [
    pytest.param(make_directory, id="a directory"),
    pytest.param(make_socket, id="a socket"),
    pytest.param(os.mkfifo, id="a pipe"),
    pytest.param(make_dangling_link, id="a dangling link"),
    pytest.param(make_link_to_a_file_of_ours, id="a link to a file of ours"),
    pytest.param(make_second_name, id="a second name"),
    pytest.param(make_device, id="a device", marks=needs_root),
    pytest.param(make_file_of_another, id="a file of another user", marks=needs_root),
    pytest.param(
        make_unreadable_file,
        id="an unreadable file",
        marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything"),
    ),
]


@pytest.fixture(params=THINGS)
def thing(request: pytest.FixtureRequest, broker_name: str) -> Iterator[str]:
    """The name of a broker in whose place something else is."""
    path = shm_path(broker_name)
    request.param(path)
    try:
        yield broker_name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}-target")


def test_what_is_no_file_of_ours_is_refused_and_left_alone(thing: str) -> None:
    for use in (shmq.connect, shmq.Broker):
        with pytest.raises(shmq.ForeignSegment, match=r"found a.*expected a regular file"):
            use(thing)
    command: tuple[str, ...]
    for command in (("status", thing), ("up", thing), ("up", "--detach", thing), ("stats", thing)):
        code, out, err = cli(*command)
        assert code == 1
        assert "Traceback" not in err
        assert "expected a regular file" in out + err
    for command in (("ls",), ("ls", "--json"), ("status",), ("clean", thing), ("metrics", thing)):
        assert "Traceback" not in cli(*command)[2]
    assert cli("ls")[0] == 0
    code, out, _ = cli("clean", thing)
    assert code == 0
    assert f"kept {thing} (posix)" in out
    assert os.path.lexists(shm_path(thing))


def test_a_thing_in_the_place_of_its_file_does_not_hide_a_system_v_broker(thing: str) -> None:
    with ended(thing), shmq.Broker(thing, shm="sysv") as broker:
        broker.create_queue("orders").publish(b"x")
        assert shmq.connect(thing).get_queue("orders").depth() == 1


def test_a_sound_segment_that_others_may_open_is_refused(broker_name: str) -> None:
    with program("shmq.Broker(name); os.kill(os.getpid(), 9)", broker_name) as starter:
        starter.process.wait(30)
    with shmq.connect(broker_name) as broker:
        os.chmod(shm_path(broker_name), 0o660)
        source = """
            try:
                shmq.connect(name)
            except shmq.ForeignSegment as error:
                print("mode 0660" in str(error))
        """
        with program(source, broker_name) as other:
            assert other.finish() == (0, "True\n", "")
        os.chmod(shm_path(broker_name), 0o600)
        broker.shutdown(timeout=0)


def test_a_segment_is_ours_alone_whatever_the_umask(broker_name: str) -> None:
    source = """
        os.umask(0o777)
        with shmq.Broker(name) as broker:
            path = f"/dev/shm/shmq.{os.getuid()}.{name}"
            print(oct(os.stat(path).st_mode & 0o777), shmq.connect(name).list_queues())
    """
    with program(source, broker_name) as other:
        assert other.finish() == (0, "0o600 []\n", "")


AMONG_STRANGERS = """
import os, socket, time
import shmq
place = f"/dev/shm/shmq.{os.getuid()}.anonymous-1-"
os.mkdir(place + "a")
os.symlink("/etc/passwd", place + "b")
os.mkfifo(place + "c")
socket.socket(socket.AF_UNIX).bind(place + "d")
os.mknod(place + "e", 0o20666, os.makedev(1, 3))
open(os.fsencode(place) + b"\\xff\\n", "w").close()
os.chown(os.fsencode(place) + b"\\xff\\n", 54321, 54321)
open(place + "z", "w").close()   # rubble: when it is gone, all before it was looked at
with shmq.Broker("shop") as broker:
    before = broker.stats()
    end = time.monotonic() + 20
    while os.path.exists(place + "z") and time.monotonic() < end:
        time.sleep(0.01)
    after = broker.stats()
    print(os.path.exists(place + "z"), after.supervisor_pid == before.supervisor_pid is not None)
    print(after.sidecar_pid == before.sidecar_pid is not None, len(os.listdir("/dev/shm")))
"""


@needs_root
@pytest.mark.skipif(not can_unshare("--mount"), reason="needs mount namespaces")
def test_nothing_in_dev_shm_ends_a_supervisor_that_sweeps() -> None:
    assert in_a_tmpfs("50%", AMONG_STRANGERS) == "False True\nTrue 7\n"


# ---- other namespaces ----------------------------------------------------------------------------

ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc")


@pid_namespaces
@pytest.mark.parametrize("provider", ["posix", "sysv"])
def test_clean_elsewhere_keeps_what_living_processes_use(broker_name: str, provider: str) -> None:
    with ended(broker_name), shmq.Broker(broker_name, shm=provider) as broker:
        queue = broker.create_queue("orders")
        for pid in processes_of(broker):
            kill(pid)
        code, out, err = cli("clean", broker_name, before=ELSEWHERE)
        assert (code, err) == (0, "")
        assert f"kept {broker_name} ({provider})" in out
        assert "cannot be judged from here" in out
        assert "pid namespace" in out
        broker.start()
        queue.publish(b"still there")
        assert shmq.connect(broker_name).get_queue("orders").depth() == 1
        code, out, err = cli("clean", broker_name, before=ELSEWHERE)
        assert f"kept {broker_name} ({provider})" in out


@pid_namespaces
def test_a_supervisor_that_starts_elsewhere_keeps_what_living_processes_use(
    broker_names: Callable[[], str],
) -> None:
    there = broker_names()
    source = """
        broker = shmq.Broker()
        for pid in (broker.stats().supervisor_pid, broker.stats().sidecar_pid):
            os.kill(pid, signal.SIGKILL)
        say(broker.name)
        sys.stdin.readline()
        broker.start()
        say(broker.create_queue("orders").depth())
    """
    # Rubble that it removes after that one: then it has been looked at.
    sweeps = f"""
import os, time, shmq
with shmq.Broker({there!r}):
    rubble = f"/dev/shm/shmq.{{os.getuid()}}.anonymous-zz-{there}"
    open(rubble, "w").close()
    while os.path.exists(rubble):
        time.sleep(0.01)
"""
    with program(source, "x") as here:
        name = here.line()
        with ended(name):
            done = subprocess.run(
                [*ELSEWHERE, sys.executable, "-c", sweeps],
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert (done.returncode, done.stderr) == (0, "")
            here.tell()
            assert here.line() == "0"


@pid_namespaces
@pytest.mark.parametrize("provider", ["posix", "sysv"])
def test_what_nobody_has_open_is_removed_from_anywhere(broker_name: str, provider: str) -> None:
    source = """
        broker = shmq.Broker(name, shm=sys.argv[2])
        stats = broker.stats()
        for pid in (stats.supervisor_pid, stats.sidecar_pid, os.getpid()):
            os.kill(pid, signal.SIGKILL)
    """
    with program(source, broker_name, provider) as everybody:
        everybody.process.wait(30)

    def removed() -> bool:
        code, out, err = cli("clean", broker_name, before=ELSEWHERE)
        assert (code, err) == (0, "")
        return f"removed {broker_name} ({provider}): nobody has it open" in out

    wait_until(removed, "the last of them to be gone")
    assert broker_name not in {found.name for found in list_segments()}


def test_clean_keeps_what_it_cannot_tell_about(
    broker_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not say who has a file open, and a /proc that does not show everybody."""
    path = Path(shm_path(broker_name))
    path.write_bytes(os.urandom(8192))
    try:
        monkeypatch.setattr("shmq._segment.posix.PosixSegment.others", lambda self: None)
        monkeypatch.setattr(cleaning, "_proc_is_whole", lambda: False)
        (found,) = clean(names=[broker_name])
        assert not found.removable
        assert "no telling who uses it" in found.reason
        monkeypatch.setattr(cleaning, "_proc_is_whole", lambda: True)
        monkeypatch.setattr(cleaning, "_may_be_ours", lambda pid: False)
        (found,) = clean(names=[broker_name])
        assert found.removable
    finally:
        path.unlink(missing_ok=True)


def test_clean_sees_descriptors_and_mappings_of_all_processes(broker_name: str) -> None:
    path = Path(shm_path(broker_name))
    path.write_bytes(os.urandom(8192))
    try:
        for hold in ("fd = os.open(p, os.O_RDWR)", "import mmap; f = open(p, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()"):  # fmt: skip
            with program(f"p = sys.argv[2]\n{hold}\nsay('x')\ninput()", "x", str(path)) as user:
                assert user.line() == "x"
                (found,) = clean(names=[broker_name])
                assert not found.removable
        (found,) = clean(names=[broker_name])
        assert found.removable
    finally:
        path.unlink(missing_ok=True)
