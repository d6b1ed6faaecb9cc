from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import environment


def package(folder: Path, version: str) -> Path:
    """A wheel, by hand: pip needs no build tools and no index for it."""
    folder.mkdir(exist_ok=True)
    wheel = folder / f"tinypackage-{version}-py3-none-any.whl"
    info = f"tinypackage-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinypackage.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinypackage\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def run(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_an_environment_adds_to_the_servers_packages_and_is_made_once_unless_interrupted(tmp_path: Path) -> None:
    package(tmp_path / "code", "1.0")
    wanted = tmp_path / "code" / "requirements.txt"
    wanted.write_text("# ours\n\n./tinypackage-1.0-py3-none-any.whl\n")
    python = environment.prepare(wanted, tmp_path / "cache")
    assert run(python, "import tinypackage, fourfold, numpy; print(tinypackage.version)") == "1.0"
    made = python.parent.stat().st_mtime_ns
    assert environment.prepare(wanted, tmp_path / "cache") == python
    assert python.parent.stat().st_mtime_ns == made, "made once"

    (python.parent.parent / "ready").unlink()  # as if it had been interrupted
    next(python.parent.parent.rglob("tinypackage.py")).unlink()
    assert run(environment.prepare(wanted, tmp_path / "cache"), "import tinypackage; print(1)") == "1"


def test_the_content_is_the_key(tmp_path: Path) -> None:
    wheel = package(tmp_path, "1.0")
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"./{wheel.name}\n")
    key = environment._key(wanted)
    wanted.write_text(f"# a comment\n./{wheel.name}\n")
    assert environment._key(wanted) == key
    wheel.write_bytes(b"another build")
    assert environment._key(wanted) != key


def test_what_pip_said_is_told(tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("./nowhere-1.0-py3-none-any.whl\n")
    with pytest.raises(ModelLoadError, match=r"handler's requirements\.txt\. It said:\n(.|\n)*nowhere"):
        environment.prepare(wanted, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.log"))) == 1


def test_where_requirements_are(tmp_path: Path) -> None:
    assert environment.requirements(tmp_path, {}) is None
    (tmp_path / "code").mkdir()
    wanted = tmp_path / "code" / "requirements.txt"
    wanted.write_text("# nothing\n")
    assert environment.requirements(tmp_path, {}) is None, "nothing to install"
    wanted.write_text("numpy\n")
    assert environment.requirements(tmp_path, {}) == wanted
    (tmp_path / "src").mkdir()
    wanted.rename(tmp_path / "src" / "requirements.txt")
    place = {"SAGEMAKER_SUBMIT_DIRECTORY": "file:///opt/ml/model/src"}
    assert environment.requirements(tmp_path, place) == tmp_path / "src" / "requirements.txt"
    assert environment.requirements(tmp_path, {}) is None
