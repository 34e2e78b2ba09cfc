"""Extensions of shmq; everything else about the package is in pyproject.toml.

Two extensions are built from one list of C sources (native/build_ffi.py keeps it):

* ``shmq._native._shmq``   the cffi binding: complete, required.
* ``shmq._native._accel``  a thin CPython binding of the hottest calls: optional. If it fails to
  build, installation goes on and shmq uses the cffi binding for everything.

Environment: ``SHMQ_BUILD_NO_ACCEL=1`` leaves the second one out, ``SHMQ_REQUIRE_ACCEL=1`` makes its
failure an error (a checkout would go on with yesterday's build of it), ``SHMQ_CFLAGS`` and
``SHMQ_LDFLAGS`` add flags.
"""

import os
import runpy
import sys

if not sys.platform.startswith("linux"):
    sys.exit(
        f"shmq: found {sys.platform}, expected Linux; it sleeps on futexes, watches processes by pidfd and keeps its queues in /dev/shm. "
        "On another system run it in a Linux container or a virtual machine."
    )

from setuptools import Extension, setup  # after the refusal, which needs none of it

ACCEL = "native/accel"


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def accel_extensions() -> list[Extension]:
    if switched_on("SHMQ_BUILD_NO_ACCEL") or not os.path.exists(ACCEL):
        return []
    build = runpy.run_path("native/build_ffi.py")["build_settings"](ACCEL)
    build["include_dirs"].append(runpy.run_path("native/accel_docs.py")["write"]())
    optional = not switched_on("SHMQ_REQUIRE_ACCEL")
    return [Extension("shmq._native._accel", optional=optional, **build)]


setup(
    cffi_modules=["native/build_ffi.py:ffibuilder"],
    ext_modules=accel_extensions(),
)
