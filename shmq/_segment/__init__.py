"""Where a broker's memory is: names, two providers of shared memory, and who may have it.

    posix   /dev/shm/shmq.<uid>.<name>, sparse, mode 0600 (posix_ipc)
    sysv    a System V segment whose key is derived from <uid> and <name>; not bound by the size of
            /dev/shm (sysv_ipc)

Both hold the same bytes. A segment is made in this order, so that a creator killed anywhere leaves
something that the next one recognises as unfinished and takes away:

    create exclusively -> claim -> size -> map -> name -> format, which stores the magic last

The *claim* says who serves the segment: a lock that the kernel takes back with the supervisor's
life (an flock on the file), or, for System V, a word in the segment that is void once its holder is
proven dead. Without it, a segment with a magic is a broker without supervisor, to be adopted with all
it holds; one without magic is rubble.

Only what this user owns, has made, and nobody else may open is ever read: see posix and sysv.

Nothing here is ever registered with multiprocessing's resource tracker.
"""

from __future__ import annotations

from shmq._segment.access import Found, create_segment, list_segments, open_segment
from shmq._segment.cleaning import Stale, clean
from shmq._segment.handle import Segment
from shmq._segment.header import Header
from shmq._segment.names import ANONYMOUS_PREFIX
from shmq._segment.owners import Owner, living, observe, owners_alive
from shmq._segment.process import Process

__all__ = [
    "ANONYMOUS_PREFIX",
    "Found",
    "Header",
    "Owner",
    "Process",
    "Segment",
    "Stale",
    "clean",
    "create_segment",
    "list_segments",
    "living",
    "observe",
    "open_segment",
    "owners_alive",
]
