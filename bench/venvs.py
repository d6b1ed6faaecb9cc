"""A virtual environment for each peer under `bench/.venvs`, made from pip and kept."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

VENVS = Path(__file__).parent / ".venvs"
RUNTIME = f"onnxruntime=={version('onnxruntime')}"
"""The model's runtime in the version that Fourfold runs with here, so that servers are compared and not runtimes."""


def ensure(name: str, packages: list[str], python: str = sys.executable) -> Path:
    """The bin folder of the environment, which is made where it is missing.

    Raises RuntimeError with pip's last words where it cannot be.
    """
    folder = VENVS / name
    done = folder / "ready"
    wanted = "\n".join([RUNTIME, *packages])
    if not done.exists() or done.read_text() != wanted:
        print(f"setting up {name} in {folder}", file=sys.stderr, flush=True)
        _run([python, "-m", "venv", "--clear", str(folder)])
        _run(
            [
                str(folder / "bin/python"),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                RUNTIME,
                *packages,
            ]
        )
        done.write_text(wanted)
    return folder / "bin"


def packages_of(name: str) -> Path:
    """The environment's site-packages."""
    return next((VENVS / name / "lib").glob("python3*/site-packages"))


def versions(name: str, packages: list[str]) -> str:
    """`mosec 0.9.8, orjson 3.13.0` for a report."""
    command = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    return _run([str(VENVS / name / "bin/python"), "-c", command, *packages]).strip()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
