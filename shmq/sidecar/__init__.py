"""The process that makes time pass for a broker: delays, retries, leases, memory given back.

It is forked by the supervisor and attached like anybody else. Everything it does is found again in
the segment by its successor: killed at any point, work is late, never lost. `decide` holds the
rules (no clock, no memory), `loop` carries them out.
"""
