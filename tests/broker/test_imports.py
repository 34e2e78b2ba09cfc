"""Where helpers import from: not from the folder that their starter happens to be in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ended, processes_of

import shmq

ROOT = Path(__file__).resolve().parents[2]
TRAPS = ("resource", "queue", "select", "signal", "posix_ipc", "runpy", "gc", "shmq", "sitecustomize")  # fmt: skip


@pytest.mark.parametrize("search", [None, "", ":", ".", "{cwd}", "lib", "lib::{lib}"])
@pytest.mark.parametrize("how", ["Broker", "up"])
def test_helpers_import_nothing_from_the_working_directory(
    tmp_path: Path, broker_name: str, search: str | None, how: str
) -> None:
    """There may be modules of the user's there, named as some of the library are, or of others."""
    for trap in TRAPS:
        (tmp_path / f"{trap}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (tmp_path / "lib").mkdir()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if search is not None:
        env["PYTHONPATH"] = search.format(cwd=tmp_path, lib=tmp_path / "lib")
    source = (
        "import os, sys; sys.path[:] = [p for p in sys.path if p not in ('', sys.argv[1])];"
        f"sys.path.append({str(ROOT)!r});"
    )
    if how == "Broker":
        source += "import shmq; shmq.Broker(sys.argv[2]).close()"
    else:
        source += "from shmq.cli import main; sys.exit(main(['up', '--detach', sys.argv[2]]))"
    # -S: the starter itself must not spring sitecustomize, which runs before any of this.
    start = [sys.executable, "-I", "-c", source, str(tmp_path), broker_name]
    with ended(broker_name):
        done = subprocess.run(start, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        with shmq.connect(broker_name) as broker:
            for pid in processes_of(broker):
                assert str(tmp_path / "resource.py") not in Path(f"/proc/{pid}/maps").read_text()
            broker.create_queue("orders").publish(b"x")
        assert not (tmp_path / "sprung").exists()


def test_a_helper_searches_what_pythonpath_names_and_not_its_own_folder(tmp_path: Path) -> None:
    from shmq.supervisor.spawn import command, environment

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(
        "import atexit, sys; atexit.register(lambda: print('\\n'.join(['', *sys.path])))"
    )
    source = (
        "import os, subprocess, sys\n"
        "from shmq.supervisor.spawn import command, environment\n"
        "os.chdir(sys.argv[1])\n"
        "os.environ['PYTHONPATH'] = os.pathsep.join(['', 'lib', '', '.'])\n"
        "words = command('x', {'shm': 'posix', 'adopt': 1})\n"
        "done = subprocess.run([*words, '--foreground'], env=environment(), capture_output=True, text=True)\n"
        "print(done.stdout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    paths = done.stdout.split("\n")
    assert str(tmp_path / "lib") in paths
    assert str(tmp_path) not in paths
    assert not any(path.endswith("supervisor") for path in paths)
    assert paths.count("") <= 3  # the lines around; no entry of sys.path
    assert command("x", {})[0] == sys.executable
    assert environment()["PYTHONSAFEPATH"] == "1"
