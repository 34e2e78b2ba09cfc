"""Start a supervisor of this very package: ``python …/shmq/supervisor/start.py shmq.supervisor NAME …``.

A helper must import nothing from where its starter happens to be: a folder may have a ``queue.py`` or
``resource.py`` of its own, or somebody else's. ``python -m`` puts the working directory in front of
everything, and PYTHONSAFEPATH, which forbids that, is new in Python 3.11. A script has its own folder
there instead, and takes it away before it imports anything.

The package is loaded by its place, so that it is the same one as the starter's. The folder that it is
in may be a project's own: it is searched last, and only when the dependencies are nowhere else.
"""

import sys

DEPENDENCIES = ("_cffi_backend", "posix_ipc", "sysv_ipc")

if __name__ == "__main__":
    import os  # the interpreter has imported it before it came here, from its own library

    here = os.path.dirname(os.path.abspath(__file__))
    package = os.path.dirname(here)
    unwanted = {os.path.realpath(here)}
    try:
        unwanted.add(os.path.realpath(os.getcwd()))
    except OSError:
        pass  # it was removed: nothing is found there
    sys.path[:] = [path for path in sys.path if path and os.path.realpath(path) not in unwanted]

    import importlib.util

    if not all(importlib.util.find_spec(name) for name in DEPENDENCIES):
        sys.path.append(os.path.dirname(package))
    spec = importlib.util.spec_from_file_location(
        "shmq", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["shmq"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    del sys.argv[0]
    from shmq.supervisor.__main__ import main

    sys.exit(main())
