"""Processes that work on a queue: `WorkerPool` for messages, `Executor` for calls.

death      how a worker ended, and what became of what it held
post       a worker process's place: requests to stop, its owner's death, what it has in hand
crew       the owner's side: starting, watching and replacing workers
pool       WorkerPool
serve      its workers: handlers, also such that are awaited
wire       calls and results as payloads
engine     the life of an Executor's calls: window, results, retries, shutdown
recall     taking back calls that no worker has begun
work       its workers
mapping    Executor.map
executor   Executor
"""
