"""Each numbered example runs from beginning to end as a user would run it, and leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NUMBERED = sorted(path for path in EXAMPLES.glob("[0-9][0-9]-*.py"))


@pytest.mark.parametrize("example", NUMBERED, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FOURFOLD_"))}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def test_no_two_examples_have_one_number() -> None:
    numbers = [int(path.name[:2]) for path in NUMBERED]
    assert len(set(numbers)) == len(numbers) > 0
