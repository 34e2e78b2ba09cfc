"""Where a seccomp filter, as containers have it, or an old kernel refuses system calls: whole sessions by the slower ways."""

from __future__ import annotations

import errno
import platform

import pytest
from kit import ended, exists, program

NUMBERS = {"x86_64": {"membarrier": 324, "pidfd_open": 434, "pidfd_send_signal": 424}, "aarch64": {"membarrier": 283, "pidfd_open": 434, "pidfd_send_signal": 424}}  # fmt: skip

# A filter of five words per call: from then on, for good and for all children, the kernel answers with an error.
REFUSE = """
import ctypes, struct
def refuse(numbers, error):
    code = struct.pack("<HBBI", 0x20, 0, 0, 0)  # the number of the call
    for number in numbers:
        code += struct.pack("<HBBI", 0x15, 0, 1, number)
        code += struct.pack("<HBBI", 0x06, 0, 0, 0x00050000 | error)
    code += struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(code)
    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    filter = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
def until(condition):
    end = time.monotonic() + 25
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
refuse(eval(sys.argv[2]), int(sys.argv[3]))
"""

SESSION = """
broker = shmq.Broker(name, memory_limit="64MB")
queue = broker.create_queue("q", retry_backoff=0)
queue.publish(b"work")

# A consumer dies with a message in hand, as a zombie that nobody waits for: another gets it.
has, got = os.pipe()
child = os.fork()
if child == 0:
    queue.subscribe().get(timeout=20)
    os.write(got, b"!")
    os.kill(os.getpid(), signal.SIGKILL)
os.read(has, 1)
again = queue.subscribe().get(timeout=25)
assert (again.payload, again.attempt) == (b"work", 2)
again.ack()
os.waitpid(child, 0)

# The sidecar is killed: a new one fires what is delayed.
stats = broker.stats()
os.kill(stats.sidecar_pid, signal.SIGKILL)
until(lambda: broker.stats().sidecar_pid not in (None, stats.sidecar_pid))
queue.publish(b"later", delay=0.05)
assert queue.subscribe(ack="none").get(timeout=25).payload == b"later"

# Records of deleted queues are used again: there are 1,024.
for i in range(1100):
    broker.create_queue(f"queue-{i}")
    broker.delete_queue(f"queue-{i}")

# A closed queue is drained for its consumers.
queue.publish(b"last")
queue.shutdown()
assert [delivery.payload for delivery in queue.subscribe(ack="none")] == [b"last"]

# The supervisor is killed: start() brings it back.
os.kill(stats.supervisor_pid, signal.SIGKILL)
until(lambda: broker.stats().supervisor_pid is None)
broker.start()
assert broker.stats().supervisor_pid not in (None, stats.supervisor_pid)
helpers = [broker.stats().supervisor_pid, broker.stats().sidecar_pid]
broker.shutdown()
for pid in helpers:
    assert not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().split(") ")[1][0] in "ZX", pid
say("fine")
"""

MP = """
import shmq.mp, shmq.home
queue = shmq.mp.JoinableQueue()
queue.put({"a": 1})
has, got = os.pipe()
child = os.fork()
if child == 0:
    queue.get()
    os.write(got, b"!")
    os.kill(os.getpid(), signal.SIGKILL)
os.read(has, 1)
assert queue.get(timeout=25) == {"a": 1}
queue.task_done()
queue.join()
os.waitpid(child, 0)
for i in range(50):
    shmq.mp.Queue().put(i)
say(shmq.home.home().name)
"""


def refused() -> str:
    numbers = NUMBERS.get(platform.machine())
    if numbers is None:
        pytest.skip("the numbers of its system calls are not known here")
    return repr(sorted(numbers.values()))


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_broker_lives_works_and_ends_without_membarrier_and_pidfds(
    broker_name: str, error: int
) -> None:
    with ended(broker_name), program(REFUSE + SESSION, broker_name, refused(), str(error)) as run:
        out, err = run.process.communicate(timeout=110)
        code = run.process.returncode
    assert (code, out) == (0, "fine\n"), err
    assert not exists(broker_name)


def test_queues_of_multiprocessing_work_without_membarrier_and_pidfds(broker_name: str) -> None:
    with program(REFUSE + MP, broker_name, refused(), str(errno.EPERM)) as run:
        out, err = run.process.communicate(timeout=110)
        code = run.process.returncode
    assert code == 0, err
    assert not exists(out.strip())
