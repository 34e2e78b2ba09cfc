"""``python -m shmq.cli``."""

from shmq.cli.main import entry

if __name__ == "__main__":
    entry()
