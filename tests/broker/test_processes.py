"""Programs that close descriptors, exec, fork beside threads, run out of processes, or have Python inside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from kit import PROLOGUE, ended, processes_of, program
from programs import LIMIT_S, USES, run
from waiting import wait_until

import shmq

# ---- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1", "1,2", "0,1,2"])
@pytest.mark.parametrize("what", USES)
def test_standard_descriptors_may_be_closed_at_start(
    tmp_path: Path, what: str, closed: str
) -> None:
    said = tmp_path / "said"
    code = f"""
    import os, sys
    said = os.dup2(os.open({str(said)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 200)
    for fd in ({closed},): os.close(fd)
    os.closerange(3, 200)
    import shmq, shmq.mp as mp
    try:
        for _ in (1,):
            BODY
        os.write(said, b"fine")
        # What got such a number would be written to by whoever prints.
        kept = [fd for fd in (0, 1, 2) if os.path.exists(f"/proc/self/fd/{{fd}}")]
        os.write(said, f" {{[os.readlink(f'/proc/self/fd/{{fd}}') for fd in kept if fd in ({closed},)]}}".encode())
    except BaseException as error:
        os.write(said, repr(error).encode())
    """
    body = textwrap.indent(textwrap.dedent(USES[what]), " " * 8)
    run(textwrap.dedent(code).replace("        BODY", body))
    assert said.read_text() == "fine []"


def test_shmq_up_serves_with_standard_descriptors_closed(broker_name: str) -> None:
    up = f"exec {sys.executable} -m shmq.cli up {broker_name} <&- >&- 2>&-"
    process = subprocess.Popen(["sh", "-c", up])
    try:
        with ended(broker_name):
            with shmq.connect(wait_for(broker_name)) as broker:
                wait_until(lambda: broker.stats().sidecar_pid, "a sidecar")
                queue = broker.create_queue("q")
                queue.publish(b"x", delay=0.01)
                with queue.subscribe() as consumer:
                    assert consumer.get(timeout=20).payload == b"x"
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()


def wait_for(name: str) -> str:
    def there() -> bool:
        try:
            shmq.connect(name).close()
        except shmq.BrokerNotRunning:
            return False
        return True

    wait_until(there, f"broker {name}")
    return name


CLOSER = """
import os, sys, threading
import shmq, shmq.mp as mp
folder = sys.argv[1]
def close_all_and_open_own():
    '''As a daemon's clean start does, or `os.closerange`; the numbers go to files of the program.'''
    highest = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(3, highest + 1)
    return [os.open(f"{folder}/{n}", os.O_RDWR | os.O_CREAT) for n in range(highest + 20)]
def check(files):
    for n, fd in enumerate(files):
        os.write(fd, b"precious")  # fails when somebody has closed it
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 100) == b"precious", (n, os.pread(fd, 100, 0))
        assert os.fstat(fd).st_ino == os.stat(f"{folder}/{n}").st_ino
"""
AFTER_CLOSING = {
    "broker": """
        broker = shmq.Broker()
        queue = broker.create_queue("q")
        files = close_all_and_open_own()
        for _ in range(30): queue.publish(b"x" * 300_000)   # memory that was not there before
        assert shmq.connect(broker.name).get_queue("q").depth() == 30
        assert broker.stats().memory_used > 0
        with queue.subscribe() as consumer:
            for _ in range(30): consumer.get(timeout=20).ack()
        if os.fork() == 0:
            queue.publish(b"of a child")
            os._exit(0)
        assert os.wait()[1] == 0
        assert queue.depth() == 1
        broker.shutdown(timeout=0)
        """,
    "mp.Queue": """
        queue = mp.Queue()
        queue.put(1)
        number = queue.fileno()
        files = close_all_and_open_own()
        for _ in range(30): queue.put(b"x" * 300_000)
        for _ in range(31): queue.get(timeout=20)
        import select
        poll = select.poll()
        poll.register(queue.fileno(), select.POLLIN)        # it gets another one
        assert not poll.poll(0)
        queue.put(2)
        assert poll.poll(20_000)
        child = mp.get_context("fork").Process(target=queue.put, args=(3,))
        child.start()
        child.join()
        assert [queue.get(timeout=20), queue.get(timeout=20)] == [2, 3]
        del queue
        """,
    "executor": """
        executor = shmq.Executor(2)
        assert executor.submit(pow, 2, 3).result(timeout=20) == 8
        files = close_all_and_open_own()
        assert executor.submit(pow, 2, 4).result(timeout=20) == 16
        assert sum(executor.map(abs, range(100))) == 4950
        executor.shutdown()
        """,
    **{
        f"executor, {method}": f"""
        import multiprocessing, signal
        executor = shmq.Executor(2, mp_context=multiprocessing.get_context("{method}"))
        worker = executor.submit(os.getpid).result(timeout=20)
        files = close_all_and_open_own()
        # No more can be started: multiprocessing would write to these files, and send them to its children.
        assert sum(executor.map(abs, range(100))) == 4950
        os.kill(worker, signal.SIGKILL)
        try:
            print(executor.submit(pow, 2, 5).result(timeout=20))
        except shmq.WorkersFailed as error:
            assert "closed descriptors of multiprocessing" in str(error), error
        executor.shutdown()
        """
        for method in ("spawn", "forkserver")
    },
}


@pytest.mark.parametrize("what", AFTER_CLOSING)
def test_files_that_got_our_numbers_are_left_alone(tmp_path: Path, what: str) -> None:
    source = CLOSER + textwrap.dedent(AFTER_CLOSING[what])
    source += "\nimport gc\ngc.collect()\ncheck(files)\n"
    # And once more at the very end, when all handles are gone.
    source += "import atexit\natexit._run_exitfuncs()\nfor fd in files: os.fstat(fd)\n"
    code, _, err = run(source, str(tmp_path))
    assert (code, err) == (0, "")
    assert all(file.read_bytes() == b"precious" for file in tmp_path.iterdir())


def test_a_segment_whose_descriptor_and_name_are_gone_says_so(broker_name: str) -> None:
    source = """
    broker = shmq.connect(name)
    queue = broker.create_queue("q")
    os.closerange(3, 100)
    os.unlink(f"/dev/shm/shmq.{os.getuid()}.{name}")
    if os.fork() == 0:
        try:
            queue.publish(b"x")
        except shmq.BrokerNotRunning as error:
            say(error)
        os._exit(0)
    os.wait()
    """
    with shmq.Broker(broker_name), program(source, broker_name) as one:
        assert "whose descriptor this program has closed: found no file of that name" in one.line()
        assert one.finish()[0] == 0


# ---- which Python ---------------------------------------------------------------------------------

INSIDE = {
    "nothing": "sys.executable = ''",
    "None": "sys.executable = None",
    "another program": "sys.executable = '/bin/true'",
    "set_executable": """
import multiprocessing
multiprocessing.set_executable(sys.executable)
sys.executable = '/bin/true'
""",
}


@pytest.mark.parametrize("inside", INSIDE)
def test_a_program_with_python_inside_starts_brokers(inside: str) -> None:
    source = f"import sys\n{INSIDE[inside]}\nimport shmq, shmq.mp as mp\n"
    source += textwrap.dedent(USES["broker"]) + textwrap.dedent(USES["mp.Queue"])
    assert run(source) == (0, "", "")


def test_no_python_at_all_is_said(tmp_path: Path) -> None:
    source = f"""
    import sys, shmq
    sys.executable = ""
    sys._base_executable = None
    sys.exec_prefix = sys.base_exec_prefix = {str(tmp_path)!r}
    try:
        shmq.Broker()
    except shmq.BrokerNotRunning as error:
        assert "no Python to run it with" in str(error), error
        assert "multiprocessing.set_executable" in str(error), error
    else:
        raise AssertionError("started")
    import multiprocessing
    multiprocessing.set_executable("/nowhere/python")
    try:
        shmq.Broker()
    except shmq.BrokerNotRunning as error:
        assert "'/nowhere/python' cannot be run: No such file" in str(error), error
    else:
        raise AssertionError("started")
    """
    assert run(source) == (0, "", "")


# ---- forks beside threads ---------------------------------------------------------------------------

FORKS = {
    "JoinableQueue": """
        import shmq.mp.joinable as held
        queue = mp.JoinableQueue()
        queue.put(1)
        lock = held._lock
        def use(): assert queue.get(timeout=20) == 1; queue.task_done()
        """,
    "handles": """
        import shmq.mp.handles as held
        queue = mp.Queue()
        lock = held._lock
        def use(): another = mp.Queue(); another.put(1); queue.put(another.get(timeout=20))
        """,
    "Executor": """
        executor = shmq.Executor(1)
        lock = executor._lock
        def use(): assert executor.submit(pow, 2, 3).result(timeout=20) == 8; executor.shutdown()
        """,
    "Executor's engine": """
        executor = shmq.Executor(1)
        assert executor.submit(pow, 2, 3).result(timeout=20) == 8
        lock = executor._engine._lock
        def use():
            global executor
            try: executor.submit(pow, 2, 3)
            except RuntimeError: pass
            executor.shutdown()
            executor = None   # its finalizer is about the parent's
        """,
    "map": """
        executor = shmq.Executor(1)
        results = executor.map(abs, range(3000))
        next(results)
        lock = executor._engine._lock
        def use():
            global results
            try: list(results)
            except RuntimeError: pass
            results = None
        """,
    "WorkerPool": """
        broker = shmq.Broker()
        pool = shmq.WorkerPool(broker.create_queue("q"), print, 1)
        pool.start()
        lock = threading.Lock()
        def use(): pool.stop(); pool.wait()
        """,
    "group": """
        broker = shmq.Broker()
        queue = broker.create_queue("q")
        member = broker.create_consumer_group("g", queue, dispatch="round-robin").add_consumer("one")
        lock = member._lock
        def use():
            try: member.get(timeout=1)
            except shmq.ShmqError: pass
        """,
    "metrics": """
        import shmq.metrics
        broker = shmq.Broker()
        reader = shmq.metrics.Reader(broker.name)
        lock = reader._lock
        def use(): assert reader.read()
        """,
    "client": """
        import shmq._client
        broker = shmq.Broker()
        lock = shmq._client._lock
        def use(): assert shmq.connect(broker.name).list_queues() == []
        """,
    "home": """
        import shmq.home
        queue = mp.Queue()
        lock = shmq.home._lock
        def use(): mp.Queue().put(1)
        """,
}


@pytest.mark.parametrize("what", FORKS)
def test_a_lock_that_another_thread_holds_at_a_fork_is_free_in_the_child(what: str) -> None:
    source = "import os, signal, threading, warnings\nimport shmq, shmq.mp as mp\n"
    source += textwrap.dedent(FORKS[what])
    source += textwrap.dedent("""
    warnings.simplefilter("ignore")
    held, over = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            over.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(25)   # SIGALRM ends a child that hangs
        use()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    over.set()
    thread.join()
    if "executor" in globals(): executor.shutdown(cancel_futures=True)
    if "pool" in globals(): pool.stop()
    if "broker" in globals(): broker.shutdown(timeout=0)
    print(os.waitstatus_to_exitcode(status))
    """)
    code, out, err = run(source)
    assert (code, out, err) == (0, "0\n", "")


# ---- signal handlers and finalizers -----------------------------------------------------------------

REENTRANT = {
    "makes a queue": "x = mp.Queue(); x.put(1); x.get(timeout=20)",
    "takes with a bell": "warm.put(n); warm.get(timeout=20)",
    "takes from a JoinableQueue": "j.put(n); j.get(timeout=20); j.task_done()",
    "unpickles the same queue": "y = pickle.loads(pickle.dumps(warm)); y.put(n); y.get(timeout=20)",
    "drops queues": "keep and keep.pop()",
    "submits": "futures.append(executor.submit(abs, n))",
}


@pytest.mark.parametrize("does", REENTRANT)
@pytest.mark.parametrize("comes", ["by signal", "by the collector"])
def test_a_handler_may_do_what_it_interrupts(does: str, comes: str) -> None:
    source = f"""
    import faulthandler, gc, pickle, signal, time
    import shmq, shmq.mp as mp
    faulthandler.dump_traceback_later(30, exit=True)
    warm, j, keep = mp.Queue(), mp.JoinableQueue(), [mp.Queue() for _ in range(300)]
    warm.fileno()
    executor, futures, n, nested = None, [], 0, False
    if {does!r} == "submits":
        executor = shmq.Executor(1)
        executor.submit(abs, 1).result(timeout=20)
    def handler(*_):
        global n, nested
        if nested: return
        nested = True
        n += 1
        {REENTRANT[does]}
        nested = False
        if {comes!r} == "by signal": signal.setitimer(signal.ITIMER_REAL, .0005)
    class Cycle:
        def __init__(self): self.me = self
        def __del__(self): handler()
    if {comes!r} == "by signal":
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, .0005)
    else:
        gc.set_threshold(1)
    end = time.monotonic() + 1.5
    while time.monotonic() < end or n < 20:
        if {comes!r} != "by signal": Cycle()
        {REENTRANT[does].replace("keep and keep.pop()", "x = mp.Queue(); x.put(1); x.get(timeout=20)")}
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.set_threshold(700)
    nested = True   # for cycles that are left
    if executor is not None:
        for future in futures: future.result(timeout=20)
        executor.shutdown()
    """
    assert run(source) == (0, "", "")


# ---- exec -------------------------------------------------------------------------------------------


def test_who_execs_and_attaches_again_has_given_back_what_it_held(broker_name: str) -> None:
    source = """
    if len(sys.argv) == 2:
        broker = shmq.connect(name)
        queue = broker.get_queue("q")
        consumer = queue.subscribe(prefetch=3)
        held = [consumer.get(timeout=20) for _ in range(2)]
        say(os.getpid())
        sys.stdin.readline()
        os.execv(sys.executable, [sys.executable, "-c", os.environ["SOURCE"], name, "again"])
    consumer = shmq.connect(name).get_queue("q").subscribe()
    found = [consumer.get(timeout=20) for _ in range(5)]
    say(f"{os.getpid()} {sorted((d.payload.decode(), d.attempt) for d in found)}")
    for delivery in found: delivery.ack()
    """
    os.environ["SOURCE"] = PROLOGUE + textwrap.dedent(source)
    try:
        with shmq.Broker(broker_name) as broker, contextlib.ExitStack() as stack:
            queue = broker.create_queue("q")
            for n in range(5):
                queue.publish(str(n).encode())
            with program(source, broker_name) as one:
                pid = one.line()
                helpers = processes_of(
                    broker
                )  # which would see it between exec and attach, if quick
                for helper in helpers:
                    os.kill(helper, signal.SIGSTOP)
                    stack.callback(os.kill, helper, signal.SIGCONT)
                one.tell()
                # What was handed out is delivered a second time, what was read ahead a first time.
                told = [("0", 2), ("1", 2), ("2", 1), ("3", 1), ("4", 1)]
                assert one.line() == f"{pid} {told}"
                assert one.finish()[0] == 0
            assert queue.stats().unsettled == 0
    finally:
        del os.environ["SOURCE"]


# ---- another user -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("shm", ["posix", "sysv"])
def test_a_handle_used_as_another_user_names_both(broker_name: str, shm: str) -> None:
    source = """
    broker = shmq.connect(name)
    queue = broker.create_queue("q")
    if os.fork() == 0:
        os.setuid(61235)
        try:
            queue.publish(b"x")
        except shmq.ForeignSegment as error:
            say(error)
        os._exit(0)
    os.wait()
    """
    with shmq.Broker(broker_name, shm=shm), program(source, broker_name) as one:
        text = one.line()
        assert "61235" in text
        assert shm == "sysv" or "uid 0" in text
        assert one.finish()[0] == 0
