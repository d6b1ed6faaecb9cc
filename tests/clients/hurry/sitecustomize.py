"""On the PYTHONPATH, lets the time that a program sleeps through go by faster.

The SDKs look at what they wait for after half a minute for the first time, and then every half minute. What they still
wait for when the program has ended (AsyncPredictor's failure, when there was an answer) nobody needs.
"""

import time
from threading import main_thread

_sleep, _clock = time.sleep, time.time
_skipped = 0.0


def _nap(seconds: float) -> None:
    global _skipped
    slept = min(seconds, 0.5) if main_thread().is_alive() else 0.0
    _sleep(slept)
    _skipped += max(seconds - slept, 0.0)


time.sleep, time.time = _nap, lambda: _clock() + _skipped
