"""Nothing is printed at exit, and nothing is left, however a program ends."""

from __future__ import annotations

import pytest
from kit import ended, exists, processes_of, program
from waiting import wait_until

import shmq

STRICT = ("-X", "dev", "-W", "error")

ENDINGS = {
    "falls off the end": "",
    "sys.exit in the middle": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "delivery in hand": "consumer = queue.subscribe(); delivery = consumer.get(timeout=10)",
    "view in hand": "consumer = queue.subscribe(); view = consumer.get(timeout=10).view",
    "a thread waits": """
import threading
empty = broker.create_queue("empty")
def wait():
    with empty.subscribe() as consumer:
        try:
            consumer.get(timeout=60)
        except shmq.ShmqError:
            pass
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.05)
""",
    "closed before": "broker.close()",
    "a fork before": """
if os.fork() == 0:
    sys.exit(0)
os.wait()
""",
    "a pool of processes": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(abs, range(10))
""",
    "a child of multiprocessing": """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=queue.publish, args=(b"y",))
child.start()
child.join()
assert child.exitcode == 0
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("start", ["shmq.connect(name)", "shmq.Broker()"])
def test_no_noise_at_exit(broker_name: str, start: str, ending: str) -> None:
    source = (
        f"broker = {start}\n"
        'queue = broker.create_queue("orders")\n'
        'queue.publish(b"x" * 10000)\n'
        f"{ENDINGS[ending]}\n"
    )
    with shmq.Broker(broker_name):
        # -W error would also turn the warning about fork beside threads into an exception.
        strict = STRICT if "thread" not in ending else ()
        with program("", "x"):
            pass
        with program("", broker_name, options=strict) as one:
            one.finish()
        running = _run(source, broker_name, strict)
        assert running == (0, "", "")


def _run(source: str, name: str, options: tuple[str, ...]) -> tuple[int, str, str]:
    import subprocess
    import sys

    from kit import PROLOGUE

    done = subprocess.run(
        [sys.executable, *options, "-c", PROLOGUE + source, name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_in_a_with_block_shows_only_the_programs_own_traceback(broker_name: str) -> None:
    source = """
        with shmq.Broker(name) as broker:
            queue = broker.create_queue("orders")
            with queue.subscribe() as consumer:
                say("waiting")
                consumer.get(timeout=60)
    """
    import signal

    with ended(broker_name), program(source, broker_name) as user:
        assert user.line() == "waiting"
        user.process.send_signal(signal.SIGINT)
        code, out, err = user.finish()
        assert code == -signal.SIGINT
        assert out == ""
        assert err.strip().endswith("KeyboardInterrupt")
        assert err.count("Traceback") == 1
        assert not exists(broker_name)


def test_the_end_of_the_starter_does_not_end_a_named_broker(broker_name: str) -> None:
    with ended(broker_name):
        assert _run("shmq.Broker(name)", broker_name, STRICT) == (0, "", "")
        assert processes_of(shmq.connect(broker_name))


def test_a_process_that_exits_is_no_longer_attached(broker_name: str) -> None:
    with shmq.Broker(broker_name) as broker:
        for exit_ in ("", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"):
            _run(f"broker = shmq.connect(name)\n{exit_}", broker_name, ())
            wait_until(lambda: len(broker.stats().attached) == 3)


WAITS = {
    "get": "q = mp.Queue(); call = q.get",
    "put": "q = mp.Queue(1); q.put(1); call = lambda: q.put(2)",
    "join": "q = mp.JoinableQueue(); q.put(1); call = q.join",
    "SimpleQueue.get": "q = mp.SimpleQueue(); call = q.get",
    "get in a loop": """
q = mp.Queue()
def call():
    while True:
        try: q.get(timeout=0.01)
        except queue.Empty: pass
""",
    "fileno": "q = mp.Queue(); fd = q.fileno(); call = lambda: select.select([fd], [], [])",
    "consumer.get": 'c = broker.create_queue("q").subscribe(); call = c.get',
    "for delivery in consumer": 'c = broker.create_queue("q").subscribe(); call = lambda: list(c)',
    "publish": 'q = broker.create_queue("q", max_depth=1); q.publish(b"x"); call = lambda: q.publish(b"y")',
    "publish in a loop": """
q = broker.create_queue("q", max_depth=100, overflow="drop-oldest")
def call():
    while True: q.publish(b"x")
""",
    "topic": 'c = broker.create_topic("t").subscribe("s"); call = c.get',
    "group": 'c = broker.create_consumer_group("g", broker.create_queue("q")).add_consumer("c"); call = c.get',
    "asyncio": 'c = broker.create_queue("q").subscribe(); call = lambda: asyncio.run(c.aget())',
    "aget of mp": "q = mp.Queue(); call = lambda: asyncio.run(q.aget())",
    "QueueListener": "q = mp.Queue(); call = None; logging.handlers.QueueListener(q).start()",
    "logging": """
q = mp.Queue()
logging.getLogger().addHandler(logging.handlers.QueueHandler(q))
def call():
    while True: logging.warning("beat")
""",
    "a result": "e = shmq.Executor(1); f = e.submit(time.sleep, 0.3); call = f.result",
    "a pool": "p = shmq.WorkerPool(broker.create_queue('q'), print, 1); p.start(); call = p.wait",
}


@pytest.mark.parametrize(
    ("where", "waits"),
    [("main", waits) for waits in WAITS]
    + [("child", waits) for waits in ("get", "publish", "QueueListener", "a result", "a pool")],
)
def test_a_daemon_thread_that_waits_at_exit_stays_silent(waits: str, where: str) -> None:
    import subprocess
    import sys
    import textwrap

    body = f"""
broker = shmq.Broker()
{WAITS[waits]}
if call is not None: threading.Thread(target=call, daemon=True).start()
time.sleep(0.1)
"""
    source = (
        "import asyncio, logging.handlers, multiprocessing, queue, select, sys, threading, time\n"
        "import shmq, shmq.mp as mp\n"
        "sys.setswitchinterval(0.0005)\n"
    )
    if where == "child":
        source += "def body():\n" + textwrap.indent(body, "    ")
        source += (
            "if __name__ == '__main__':\n"
            "    p = multiprocessing.get_context('fork').Process(target=body)\n"
            "    p.start(); p.join(); sys.exit(p.exitcode)\n"
        )
    else:
        source += body
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (0, "", "")
