"""A discrete-event simulation of each mode: workers, batches, queues, cold starts, scaling with delays, expiry.

Engines, each as simple as its mode allows:

queue       workers with one FIFO queue; batches, a bounded queue, expiry, capacity that changes at ticks
            (real-time, asynchronous; a batch run is the same queue with everything there at second 0)
constant    the same with a fixed number of workers and constant service: closed in numpy, no loop
waking      one worker and its queue, started when something comes and given back when nothing does
serverless  no queue: a warm instance, a cold one, or a refusal

And around them:

outcome     what a simulation saw
policies    scaling policies, as a simulation asks them
plans       a plan, simulated by the engine that suits it

Checked against the closed forms of `queueing` in tests/advisor/test_simulate.py.
"""
