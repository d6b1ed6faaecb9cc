"""The repository itself: what must not stand in any tracked file, and what must."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    "a package index's address": re.compile(
        r"(?:files\.pythonhosted|pypi)\.org/(?:packages|simple)|--(?:extra-)?index-url"
    ),
    "a path of one machine": re.compile(r"(?<![\w.:/-])/(?:root|work|home/\w+|Users/\w+)/"),
    "a scratch path": re.compile(r"(?<![\w.:/-])/tmp/"),
    "a credential": re.compile(r"(?:AKIA|ASIA)(?!IOSFODNN7EXAMPLE)[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"),
    "work left for later": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    if not files:
        pytest.skip("not a git checkout")
    return [path for path in files if path.is_file() and path != Path(__file__)]


def test_no_tracked_file_holds_what_belongs_to_one_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "ignore")
        for what, pattern in FORBIDDEN.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_tracked_files_are_small() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > 1_000_000}
    assert large == {}


def test_constraints_are_plain_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    odd = [line for line in lines if line and not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
    assert odd == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["sklearn"],
        *project["dependency-groups"]["dev"],
    ]
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {_name(one) for one in wanted} - pinned == set()


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] == "fourfold" and path.name != "__main__.py"
        if path.read_text() and not path.read_text().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_chores_have_one_word_each() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for chore in ("demo", "test", "check", "bench", "docs"):
        assert re.search(rf"^{chore}:", makefile, re.MULTILINE), chore
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_licence_is_apache() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")
