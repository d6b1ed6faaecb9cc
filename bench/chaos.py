"""Does anything get lost? Kills the server and its workers while calls come in, and checks every outcome.

    python bench/chaos.py [--calls 10000] [--kills 100] [--pause 2.0]

Prints one line for docs/reference/reliability.md. Exits with 1 where a call was lost, or its result wrong or doubled.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.asynchronous.chaos import RESULT, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000, help="at least so many are accepted")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pause", type=float, default=2.0, help="longest time between two kills, seconds")
    parser.add_argument("--seed", type=int, default=4, help="of the moments")
    choice = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        artifact = _artifact(Path(scratch))
        report = run(
            Path(scratch), artifact, kills=choice.kills, pause=choice.pause, least=choice.calls, seed=choice.seed
        )
    right = not (report.lost or report.wrong or report.other or report.leftovers)
    right = right and report.completed == report.objects
    print(
        f"{report.accepted:,} acceptances seen by clients, {report.completed:,} calls completed, "
        f"{report.objects:,} objects; {report.server_kills} kills of the server, {report.worker_kills} of a worker; "
        f"{report.retried:,} calls tried more than once; lost {len(report.lost)}, wrong {len(report.wrong)}, "
        f"failed {sum(report.other.values())}, left over {report.leftovers}; {time.monotonic() - began:.0f} s"
    )
    sys.exit(0 if right else 1)


def _artifact(folder: Path) -> Path:
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(RESULT)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(folder / "code", "code")
    return folder / "model.tar.gz"


if __name__ == "__main__":
    main()
