"""The process that makes a broker's segment, watches who is attached, and keeps the sidecar running.

    python …/start.py shmq.supervisor NAME [--key=value …]   (started by Broker and `shmq up`)

It is a helper, not a hub: no message passes through it, and its death costs nothing but the speed
at which further deaths are noticed. Modules: `registry` (who is attached), `liveness` (what wakes
the loop), `process` (the loop), `spawn` (how a broker starts it). It meets the sidecar and the
clients only in shared memory.
"""
