"""Enqueues as many jobs as each line of standard input says, and prints the monotonic time before the first."""

import importlib
import sys
import time

module = importlib.import_module(sys.argv[1])
for line in sys.stdin:
    began = time.monotonic_ns()
    for _ in range(int(line)):
        module.enqueue()
    print(began, flush=True)
