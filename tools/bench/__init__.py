"""The benchmark of shmq: `python -m tools.bench`, run from the root of the checkout. See README.md."""
