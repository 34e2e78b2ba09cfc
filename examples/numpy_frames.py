#!/usr/bin/env python3
"""Camera frames from one process to many, each copied once.

A "camera" puts frames of 1920 × 1080 × 3 bytes into a queue that holds 8 of them. The workers get
each frame as a read-only array over shared memory (`copy=False`), measure its brightness, and drop
it: then its memory is used for another frame. Every result is compared with what the camera knows.

    python examples/numpy_frames.py [--frames 300] [--workers 2]
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy

import shmq.mp as multiprocessing

HEIGHT, WIDTH = 1080, 1920


def camera(frames: Any, count: int, workers: int) -> None:
    """Put ``count`` frames, each of one brightness, and a None for each worker."""
    frame = numpy.empty((HEIGHT, WIDTH, 3), dtype="u1")
    for n in range(count):
        frame.fill(n % 251)
        frames.put((n, frame))  # copied once, into shared memory; the array can be filled anew
    for _ in range(workers):
        frames.put(None)


def measure(frames: Any, results: Any) -> None:
    """Answer each frame with the brightness of its corners and its middle."""
    while True:
        item = frames.get(copy=False)
        if item is None:
            return
        n, frame = item
        spots = frame[[0, HEIGHT // 2, -1], [0, WIDTH // 2, -1]]
        results.put((n, float(spots.mean()), frame.flags.writeable))
        del item, frame  # the last reference to the view gives its memory back


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    frames = multiprocessing.Queue(8)
    results = multiprocessing.Queue()
    start = time.perf_counter()
    processes = [
        multiprocessing.Process(target=camera, args=(frames, options.frames, options.workers)),
        *(
            multiprocessing.Process(target=measure, args=(frames, results))
            for _ in range(options.workers)
        ),
    ]
    for process in processes:
        process.start()
    found = dict[int, tuple[float, bool]]()
    for _ in range(options.frames):
        n, brightness, writeable = results.get(timeout=60)
        found[n] = brightness, writeable
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()

    wrong = [n for n in range(options.frames) if found.get(n) != (float(n % 251), False)]
    megabytes = options.frames * HEIGHT * WIDTH * 3 / 1e6
    print(f"{options.frames} frames, {megabytes:,.0f} MB in {seconds:.2f} s")
    print("every frame right" if not wrong else f"wrong: {wrong[:10]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
