"""How many threads one call of a model may use, where its Environment does not say (FOURFOLD_THREADS).

Threads make a large neural network faster and everything small slower: three layers of 2048 answer in 0.7 ms with two
threads instead of 1.1 ms, three of 512 in 0.055 ms instead of 0.037 ms, and a forest of scikit-learn's takes three
times as long. They break even at weights of about 12 MB.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST_THREADS = 1024
"""Of one worker, whatever is asked for: more than a machine has cores, and fewer than make it stand still."""
LARGE = 16 * 2**20
"""Bytes of an artifact from which on its calls get threads."""
_NETWORKS = frozenset({"onnx", "torch", "tensorflow", "transformers", "handler"})
"""Formats that may hold a large neural network; trees and scikit-learn's models stay at one thread."""


def default_threads(format: str, folder: Path, instance_type: str, instances: int) -> int:
    """Threads for one call of a variant's worker; blocking.

    An own server gets what its container would have: the vCPUs of its instance type. So does a large network. Never
    more than the machine's cores divided by the variant's instances, and at least one.

    Args:
        format: the model's.
        folder: its unpacked artifact.
        instance_type: as in `ml.m5.xlarge`.
        instances: how many workers the variant starts with.
    """
    if format != "process" and not (format in _NETWORKS and _is_large(folder)):
        return 1
    return max(1, min(vcpus(instance_type), (os.cpu_count() or 1) // max(1, instances)))


def vcpus(instance_type: str) -> int:
    """vCPUs of an instance type by the size in its name: 2 for `large` and below, 4 for `xlarge`, 4n for `nxlarge`."""
    size = re.fullmatch(r"(\d*)xlarge", instance_type.rpartition(".")[2])
    return 4 * int(size[1] or 1) if size else 2


def _is_large(folder: Path) -> bool:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >= LARGE
