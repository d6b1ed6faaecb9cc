"""A handler's own Python packages: a virtual environment for its `requirements.txt`, cached by content.

The environment sees the server's packages behind its own, so that a handler brings only what is missing or must be of
another version. Workers of such a model are started with its interpreter (`WorkerSpec.python`).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fourfold.errors import ModelLoadError
from fourfold.formats.builtin import code_folder

_READY = "ready"
"""Written last: an environment without it was interrupted and is made again."""


def requirements(folder: Path, environment: Mapping[str, str]) -> Path | None:
    """The artifact's `requirements.txt`: beside its handler, as in SageMaker's containers, or at the artifact's top."""
    for place in (code_folder(folder, environment), folder):
        path = place / "requirements.txt"
        if path.is_file() and _lines(path):
            return path
    return None


def prepare(requirements: Path, cache: Path, timeout: float = 600.0) -> Path:
    """The interpreter of an environment with `requirements`; blocks while it is made, at once where it was before.

    Args:
        requirements: a requirements file; paths in it are relative to its folder.
        cache: folder that keeps the environments, one for each content.
        timeout: seconds that pip may take.

    Raises:
        ModelLoadError: with the last lines of what pip said; all of it is in the `pip.log` beside the environment.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / _key(requirements)
    python = folder / "bin" / "python"
    with _locked(folder.with_suffix(".lock")):
        if not (folder / _READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, symlinks=True, with_pip=not _server_has_pip())
            _see_the_servers_packages(folder)
            _install(python, requirements, folder.with_suffix(".log"), timeout)
            (folder / _READY).touch()
    return python


def _key(requirements: Path) -> str:
    """Of the file, of the files that it names, and of the interpreter."""
    digest = hashlib.sha256(f"{sys.version} {sys.prefix}\n".encode())
    for line in _lines(requirements):
        digest.update(line.encode() + b"\n")
        named = requirements.parent / line.split()[-1]
        if named.is_file():
            digest.update(named.read_bytes())
    return digest.hexdigest()[:32]


def _lines(requirements: Path) -> list[str]:
    lines = (line.strip() for line in requirements.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _see_the_servers_packages(folder: Path) -> None:
    """Through a .pth file, since a virtual environment inherits from the base interpreter only, not from another."""
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    servers = [path for path in (sysconfig.get_path("purelib"), *site.getsitepackages()) if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(servers)]
    (own / "zz-server.pth").write_text("\n".join(lines) + "\n")


def _install(python: Path, requirements: Path, log: Path, timeout: float) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python)] if _server_has_pip() else [str(python), "-m", "pip"]
    command = [*pip, "install", "--no-input", "--progress-bar=off"]
    with log.open("w", encoding="utf-8") as out:
        try:
            done = subprocess.run(
                [*command, "-r", requirements.name],
                cwd=requirements.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelLoadError(f"pip did not install {requirements.name} in {timeout:g} s.{_end(log)}") from None
    if done.returncode:
        raise ModelLoadError(f"pip could not install the handler's {requirements.name}.{_end(log)}")


def _server_has_pip() -> bool:
    """Environments that uv makes have none; then the new environment gets the one that comes with Python."""
    return importlib.util.find_spec("pip") is not None


def _end(log: Path, lines: int = 10) -> str:
    said = log.read_text("utf-8", "replace").strip().splitlines()[-lines:]
    return " It said:\n" + "\n".join(said) if said else ""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two servers on one cache make an environment once; the kernel lets go of the lock of one that died."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
