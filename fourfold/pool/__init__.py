"""The pool: every worker on this machine, shared by the four modes.

frames      the bytes between the gateway and a worker
zygote      a process with the frameworks imported, from which workers are forked
worker      the process that holds one loaded model
link        the gateway's end of one worker
local       starts workers on this machine
batcher     turns waiting calls into model calls
fleet       the workers of one model: kept at a count, replaced when they die
routes      which endpoints can be called now, and which variant answers a call
stats       counts and latencies of a variant
"""
