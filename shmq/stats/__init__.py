"""What is counted and measured: the table of counters, and what `stats()` of a queue and of a broker returns.

The parts stand on different floors: `counters` is a table, `queue` reads one queue's figures,
`broker` adds those of clients, groups and memory.
"""
