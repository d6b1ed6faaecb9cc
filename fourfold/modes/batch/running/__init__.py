"""One transform job while it runs: the server's side of it, on the event loop.

lanes       a job's life: its lanes take shard after shard until nothing is left
tools       what every job works with
record      the job as the store has it, and what follows from it
workers     the worker that a lane holds, started again where it has died
planning    the job's plan, made by a worker and written as it comes
attempts    one attempt at a shard, and what becomes of it
outputs     an object whose parts are done, put together
"""
