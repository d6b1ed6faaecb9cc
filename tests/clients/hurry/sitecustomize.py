"""On the PYTHONPATH, lets the time that a program sleeps through go by faster.

The SDKs look at what they wait for after half a minute for the first time, and then every half minute.
"""

import time

_sleep, _clock = time.sleep, time.time
_skipped = 0.0


def _nap(seconds: float) -> None:
    global _skipped
    _sleep(min(seconds, 0.5))
    _skipped += max(seconds - 0.5, 0.0)


time.sleep, time.time = _nap, lambda: _clock() + _skipped
