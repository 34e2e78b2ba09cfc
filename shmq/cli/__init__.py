"""``shmq``: the command line. Needs nothing but the core installation."""

from shmq.cli.main import main

__all__ = ["main"]
